// The sum over a token's slots that dispatch (backward) and combine (forward) share.
#pragma once

#include <ATen/core/Tensor.h>

namespace smoe {

/// out[t] = Σ_s weight[t, s] · rows[position[t, s]], s ascending; a position of R (past the end) is an empty slot and is
/// not read. rows [R, D] contiguous, position int64 [T, K], weight [T, K] or undefined for ones → [T, D] in the dtype of
/// rows, summed in fp32 (fp64 for fp64 rows). No autograd.
at::Tensor gather_sum(const at::Tensor& rows, const at::Tensor& position, const at::Tensor& weight);

}  // namespace smoe
