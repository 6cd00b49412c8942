// Dropout by the counter rule: a mask is a function of where it is used, never of what was drawn before or of the order
// in which a kernel visits its rows. Nothing of it is saved for the backward pass; it is computed again.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace smoe {

/// x with each element zeroed with probability p and the rest scaled by 1/(1−p), with autograd. Element n (row-major)
/// of a call is kept or not by (key, n) alone. p = 0 returns x itself. x: any shape, any floating dtype; p in [0, 1).
at::Tensor dropout(const at::Tensor& x, double p, uint64_t key);

/// The mask of `dropout` for a tensor of `count` elements: float32 [count], each 0 or 1/(1−p).
at::Tensor dropout_mask(int64_t count, double p, uint64_t key);

/// The mask between the two matrices of expert `expert`: float32 [R, H], each 0 or 1/(1−p). Element (r, h) is a
/// function of (key, token[r], expert, h). token: int64 [R] on the CPU. The key stands for layer and step.
at::Tensor expert_dropout_mask(const at::Tensor& token, int64_t expert, int64_t hidden, double p, uint64_t key);

/// The same mask for some units of some rows, into out [rows, units]: element (r, i) is that of token[r] and unit
/// first_unit + i; first_unit a multiple of 4. For kernels that work on tiles.
void fill_expert_mask(const int32_t* token, int64_t rows, int64_t expert, int64_t first_unit, int64_t units, double p,
                      uint64_t key, float* out);

}  // namespace smoe
