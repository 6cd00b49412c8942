// What stands between the two matrices of an expert, for rows grouped by expert: bias, activation and dropout.
#pragma once

#include <ATen/core/Tensor.h>

#include "smoe/kernels/moe_mlp_bodies.h"
#include "smoe/kernels/row_plan.h"

namespace smoe {

/// Adds the bias (may be undefined) to pre [R, H], with a gated activation [R, 2 H], in place, and gives drop(act(pre))
/// [R, H] in the dtype of pre, computed in fp32 (fp64 for fp64). Dropout's mask is that of (key, token, expert, unit)
/// (kernels/dropout.h). A row's bits depend on that row and where it belongs alone; rows past the last group become zero,
/// in pre too. Where pre is not kept, it is arbitrary afterwards. No autograd.
at::Tensor hidden_rows(at::Tensor& pre, const at::Tensor& bias, const RowPlan& plan, const MlpOptions& options,
                       bool keep_pre = true);

/// What comes back to the hidden rows.
struct OutputGradient {
  at::Tensor of_rows;  ///< [R, D] the gradient of each row's output, not yet weighted
  at::Tensor through;  ///< [R, H] the same sent back through the second matrix; undefined where only `after` is wanted
  at::Tensor scale;    ///< [R] the weight of each row, in fp32 (fp64 for fp64); 0 for a row that stands for no slot
  at::Tensor bias;     ///< [E, D] the second bias, or undefined
};

struct HiddenGradients {
  at::Tensor pre;    ///< the gradient of pre, in its dtype
  at::Tensor after;  ///< scale[r] · drop(act(pre)) [R, H], in the dtype of pre, for the gradient of the second matrix
  at::Tensor dot;    ///< [R] ⟨of_rows[r], the row's output⟩, the gradient of the row's weight, in the dtype of scale
};

/// pre with its bias, as hidden_rows left it. Where `through` is undefined there is only `after`; else its
/// memory may serve for a result.
HiddenGradients hidden_rows_backward(const at::Tensor& pre, OutputGradient gradient, const RowPlan& plan,
                                     const MlpOptions& options);

}  // namespace smoe
