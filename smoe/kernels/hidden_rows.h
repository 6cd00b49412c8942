// What stands between the two matrices of an expert, for rows grouped by expert: activation and dropout.
#pragma once

#include <ATen/core/Tensor.h>

#include "smoe/kernels/moe_mlp_bodies.h"
#include "smoe/kernels/row_plan.h"

namespace smoe {

/// drop(act(pre)): pre [R, H], with a gated activation [R, 2 H] → [R, H] in the dtype of pre, computed in fp32 (fp64 for
/// fp64). Dropout's mask is that of (key, token, expert, unit) (kernels/dropout.h). A row's bits depend on that row and
/// where it belongs alone; rows past the last group come out arbitrary. No autograd.
at::Tensor hidden_rows(const at::Tensor& pre, const RowPlan& plan, const MlpOptions& options);

struct HiddenGradients {
  at::Tensor pre;    ///< the gradient of pre, in its dtype
  at::Tensor after;  ///< scale[r] · drop(act(pre)) [R, H], in the dtype of pre, for the gradient of the second matrix
  at::Tensor dot;    ///< ⟨through[r], drop(act(pre[r]))⟩ [R], in the dtype of scale
};

/// From through [R, H], the gradient of the output of row r sent back through the second matrix, not yet weighted, and
/// the weight of each row, scale [R], in fp32 (fp64 for fp64). Where `through` is undefined there is only `after`.
HiddenGradients hidden_rows_backward(const at::Tensor& pre, const at::Tensor& through, const at::Tensor& scale,
                                     const RowPlan& plan, const MlpOptions& options);

}  // namespace smoe
