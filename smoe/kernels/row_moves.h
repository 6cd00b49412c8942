// The ways of rows between tokens and experts: gathered for the experts, summed up for the tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

#include "smoe/kernels/row_plan.h"

namespace smoe {

/// rows[r] = x[token of row r]; zero where the row stands for no slot. x [T, D], any floating dtype → [R, D]. No autograd.
at::Tensor gather_rows(const at::Tensor& x, const RowPlan& plan);

/// y[t] = Σ weight[slot of r] · rows[r] over the token's rows in the order of plan.place; rows [R, D], weight [T, K] or
/// undefined for ones → [T, D] in the dtype of rows, summed in fp32 (fp64 for fp64 rows). The weight of an empty slot is
/// not read. No autograd.
at::Tensor combine_rows(const at::Tensor& rows, const at::Tensor& weight, const RowPlan& plan);

/// The gradients of combine_rows, from that of y: of rows [R, D], and of weight [T, K] where `rows` is defined (it is not
/// read for the other). Undefined weight: ones.
std::pair<at::Tensor, at::Tensor> combine_rows_backward(const at::Tensor& gradient, const at::Tensor& rows,
                                                        const at::Tensor& weight, const RowPlan& plan);

/// weight [T, K] as the rows have it [R], in fp32 (fp64 for fp64 weights); 0 where a row stands for no slot.
at::Tensor weight_of_rows(const at::Tensor& weight, const RowPlan& plan);

/// A number of each row [R] as the slots have it [T, K]; 0 for an empty slot.
at::Tensor slots_of_rows(const at::Tensor& value, const RowPlan& plan);

}  // namespace smoe
