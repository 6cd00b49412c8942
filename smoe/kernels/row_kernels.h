// The CUDA kernels for rows grouped by expert, on tensors. They compute what the functions of the same name without "cuda"
// do (row_moves.h, hidden_rows.h, dropout.h). Where they are not built, row_kernels_no_cuda.cpp stands in for them.
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

#include "smoe/kernels/hidden_rows.h"

namespace smoe {

/// Whether the kernels are built, and compute on this tensor's device and in its dtype: CUDA; fp32, fp64 and bf16. Nothing
/// else of this file may be called otherwise.
bool row_kernels_take(const at::Tensor& t);

at::Tensor gather_rows_cuda(const at::Tensor& x, const RowPlan& plan);

/// With the bias [E, D] of each row's expert added to the row, where it is defined.
at::Tensor combine_rows_cuda(const at::Tensor& rows, const at::Tensor& bias, const at::Tensor& weight,
                             const RowPlan& plan);

std::pair<at::Tensor, at::Tensor> combine_rows_backward_cuda(const at::Tensor& gradient, const at::Tensor& rows,
                                                             const at::Tensor& weight, const RowPlan& plan);

at::Tensor hidden_rows_cuda(at::Tensor& pre, const at::Tensor& bias, const RowPlan& plan, const MlpOptions& options);

HiddenGradients hidden_rows_backward_cuda(const at::Tensor& pre, const OutputGradient& gradient, const RowPlan& plan,
                                          const MlpOptions& options);

/// Σ of the rows [R, N] of each expert, times scale [R] where that is defined → [E, N] in fp32 (fp64 for fp64).
at::Tensor column_sums_cuda(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& scale);

at::Tensor dropout_cuda(const at::Tensor& x, double p, uint64_t key);

}  // namespace smoe
