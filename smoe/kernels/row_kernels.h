// The CUDA kernels for rows grouped by expert, on tensors. They compute what the functions of the same name without "cuda"
// do (row_plan.h, row_moves.h, hidden_rows.h, dropout.h). Where they are not built, row_kernels_no_cuda.cpp stands in for them.
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

#include "smoe/kernels/hidden_rows.h"

namespace smoe {

/// Whether the kernels are built, and compute on this tensor's device and in its dtype: CUDA; fp32, fp64 and bf16. Nothing
/// else of this file may be called otherwise.
bool row_kernels_take(const at::Tensor& t);

/// Whether row_plan_cuda takes so many experts' ids: built, on CUDA, at least a slot and an expert, and few experts.
bool row_plan_cuda_takes(const at::Tensor& expert, int64_t experts);

/// make_row_plan by counting, without waiting for the device.
RowPlan row_plan_cuda(const at::Tensor& expert, int64_t experts, int64_t align);

/// Weights in fp32 or fp64.
at::Tensor weight_of_rows_cuda(const at::Tensor& weight, const RowPlan& plan);
at::Tensor slots_of_rows_cuda(const at::Tensor& value, const RowPlan& plan);

at::Tensor gather_rows_cuda(const at::Tensor& x, const RowPlan& plan);

/// With the bias [E, D] of each row's expert added to the row, where it is defined.
at::Tensor combine_rows_cuda(const at::Tensor& rows, const at::Tensor& bias, const at::Tensor& weight,
                             const RowPlan& plan);

std::pair<at::Tensor, at::Tensor> combine_rows_backward_cuda(const at::Tensor& gradient, const at::Tensor& rows,
                                                             const at::Tensor& weight, const RowPlan& plan);

at::Tensor hidden_rows_cuda(at::Tensor& pre, const at::Tensor& bias, const RowPlan& plan, const MlpOptions& options,
                            bool keep_pre);

HiddenGradients hidden_rows_backward_cuda(const at::Tensor& pre, OutputGradient gradient, const RowPlan& plan,
                                          const MlpOptions& options);

/// The matrices [E, N, D] of experts whose groups are empty become zero, in place.
void zero_empty_groups_cuda(at::Tensor& matrices, const at::Tensor& offsets);

/// Σ of the rows [R, N] of each expert, times scale [R] where that is defined → [E, N] in fp32 (fp64 for fp64).
at::Tensor column_sums_cuda(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& scale);

at::Tensor dropout_cuda(const at::Tensor& x, double p, uint64_t key);

}  // namespace smoe
