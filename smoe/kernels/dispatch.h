// Dispatch and combine: from tokens to rows grouped by expert, and back.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace smoe {

/// Where each (token, slot) stands when rows are grouped by expert. Each expert's rows are followed by empty rows up to
/// a multiple of kRowTile, so that products over a group need no padding (kernels/row_linear.h).
struct DispatchPlan {
  int64_t tokens = 0;          ///< T
  std::vector<int64_t> first;  ///< [E + 1] first row of each expert's group; the last entry is R
  std::vector<int64_t> count;  ///< [E] rows of each group that hold a token
  at::Tensor row_token;        ///< int64 [R], the row's token; T for an empty row
  at::Tensor position;  ///< int64 [T, K], the row of each slot, a token's slots in ascending expert id; R if empty
  at::Tensor slot;      ///< int64 [T, K], which slot of the routing stands there

  int64_t experts() const { return static_cast<int64_t>(count.size()); }
  int64_t rows() const { return first.back(); }
};

/// Groups the slots of expert [T, K] (int32 or int64) by expert, tokens ascending in each group. Ids outside
/// [0, experts) are empty slots. The tensors of the plan live on the device of `expert`.
DispatchPlan make_dispatch_plan(const at::Tensor& expert, int64_t experts);

/// The rows of x [T, D] in the plan's order → [R, D], empty rows zero. With autograd.
at::Tensor dispatch(const at::Tensor& x, const DispatchPlan& plan);

/// out[t] = Σ_s weight[t, s] · y[row of (t, s)], in ascending expert id; y [R, D], weight [T, K] → [T, D] in the dtype
/// of y, summed in fp32 (fp64 for fp64). Empty slots are not read. With autograd for y and weight.
at::Tensor combine(const at::Tensor& y, const at::Tensor& weight, const DispatchPlan& plan);

}  // namespace smoe
