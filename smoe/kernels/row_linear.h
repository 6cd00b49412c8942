// A linear map whose rows know nothing of each other, down to the last bit.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace smoe {

/// Products of such a number of rows are not padded.
inline constexpr int64_t kRowTile = 16;

/// x [M, I] · wᵀ [I, O] + b [O] (may be undefined) → [M, O], all of one dtype, with autograd. A row's bits depend on the
/// row, w and b alone: not on M, nor on the row's place, nor on the number of threads. That takes one thread, a
/// multiple of kRowTile rows, and a width I of whole vectors; what does not fit is padded with zeros, which costs a copy
/// (of w too where I is not a multiple of 16).
at::Tensor row_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b);

}  // namespace smoe
