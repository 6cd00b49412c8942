// The mixture's parts: from tokens to rows grouped by expert, products of each group with its expert's matrix, and back.
// What is between them is the caller's: another activation, an adapter, an exchange between ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "smoe/kernels/row_plan.h"

namespace smoe {

/// What `dispatch` gives.
struct Dispatched {
  at::Tensor rows;  ///< [R, D]
  RowPlan plan;     ///< which rows are whose
};

/// The rows of x [T, D] grouped by expert, with autograd: rows[r] = x[token of row r], zero where a row stands for no
/// slot. expert [T, K] int32 or int64; ids outside [0, experts) are empty slots. R = T · K, and the rows past
/// plan.offsets[E] stand for no slot; with align > 1 each group begins at a multiple of it and R grows by at most
/// align − 1 for each group. x fp32, fp64 or bf16. Throws UserError where shapes or types do not fit.
Dispatched dispatch(const at::Tensor& x, const at::Tensor& expert, int64_t experts, int64_t align = 1);

/// y[t] = Σ weight[slot of r] · rows[r] over the rows of token t, in ascending expert id; rows [R, D], weight [T, K] or
/// undefined for ones → [T, D] in the dtype of rows, summed in fp32 (fp64 for fp64 rows). The weight of an empty slot is
/// not read. With autograd for rows and weight. Throws UserError where shapes do not fit.
at::Tensor combine(const at::Tensor& rows, const at::Tensor& weight, const RowPlan& plan);

}  // namespace smoe
