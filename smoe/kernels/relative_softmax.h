// From the two products of relative attention to its probabilities, in one pass over them on a GPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace smoe {

/// Whether relative_softmax is built, and computes on this tensor's device and in its dtype: CUDA; fp32, fp64 and bf16.
/// It may not be called otherwise.
bool relative_softmax_takes(const at::Tensor& content);

/// probability[g, i, j] = the softmax over the visible j of scale · (content[g, i, j] + relative[g, i, j + S − 1 − i]), zero
/// for the others. content, relative [G, S, L] of one dtype, which the result has too; computed in fp32 (fp64 for fp64).
/// Visible are j ≤ i + L − S, and with window ≥ 0 those not more than `window` places before. With autograd, which keeps the
/// probabilities alone.
at::Tensor relative_softmax(const at::Tensor& content, const at::Tensor& relative, double scale, int64_t window);

}  // namespace smoe
