// From the two products of relative attention to its probabilities, in one kernel on a GPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace smoe {

/// probability[g, i, j] = the softmax over the visible j of scale · (content[g, i, j] + relative[g, i, j + S − 1 − i]), zero
/// for the others. content, relative [G, S, L] of one dtype, which the result has too; computed in fp32 (fp64 for fp64).
/// Visible are j ≤ i + L − S, and with window ≥ 0 those not more than `window` places before. With autograd, which keeps the
/// probabilities alone. May be called where row_kernels_take(content) says so (row_kernels.h).
at::Tensor relative_softmax(const at::Tensor& content, const at::Tensor& relative, double scale, int64_t window);

}  // namespace smoe
