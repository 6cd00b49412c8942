// Products of rows grouped by expert with the matrices of their experts.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "smoe/kernels/pass_memory.h"

namespace smoe {

/// out[r] = w[e] · rows[r] + bias[e] for the rows r in [offsets[e], offsets[e + 1]) of each expert e, as `dispatch`
/// (kernels/dispatch.h) groups them: rows [R, D] fp32, fp64 or bf16; offsets int32 [E + 1], ascending from 0 to at most
/// R; w [E, N, D]; bias [E, N] or undefined → [R, N] in the dtype of rows, zero past the last group. bf16 is accumulated
/// in fp32; w and bias of another dtype are rounded to that of rows, and their gradients have their own dtype. A row's
/// bits depend on the row, w and bias alone. Differentiable in rows, w and bias; an expert without rows gets zeros.
/// Throws UserError where shapes or types do not fit (on a GPU the numbers in offsets are not looked at).
at::Tensor expert_gemm(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w, const at::Tensor& bias);

/// Estimates what products of so many rows with w [E, N, D] take on a CPU, with `training` the backward pass too; rows and
/// results, which are of dtype `type`, count. Only the sizes and the dtype of w are read.
PassMemory expert_gemm_memory(const at::Tensor& w, int64_t rows, at::ScalarType type, bool training);

}  // namespace smoe
