// Linear maps of the parts around the mixtures: projections of attention, dense feed-forward blocks, the output.
#pragma once

#include <ATen/core/Tensor.h>

#include "smoe/tensor/precision.h"

namespace smoe {

/// x [.., I] · weightᵀ [I, O] + bias [O] (may be undefined) → [.., O] in the dtype of x, with autograd. With kBf16 the
/// operands are rounded to bf16, products accumulated and the bias added in fp32. On a CPU with oneDNN's block
/// microkernels, many rows in fp32 go through these, and in bf16 where I and O are even; all else, and
/// SMOE_KERNEL=reference, through LibTorch's linear.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, Precision precision);

/// The same of the places of memory [B, M, I], which take no gradient, and then of x [B, S, I], without a bias:
/// → [B, M + S, O]. Both have one dtype.
at::Tensor linear_after(const at::Tensor& memory, const at::Tensor& x, const at::Tensor& weight, Precision precision);

/// The bodies, which agree to rounding. The first one's result is in the dtype of its products, or of a bias that is
/// added to them in fp32. linear_cpu is for fp32, and for bf16 with weights in fp32 or bf16 and even I and O; it wants at
/// least kLinearRows rows. `memory` as in linear_after, or undefined; `out` is the result's dtype, that of x or fp32.
at::Tensor linear_reference(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, Precision precision);
bool linear_cpu_takes(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
at::Tensor linear_cpu(const at::Tensor& memory, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      at::ScalarType out);

/// Fewer rows do not repay the packing of the weight, which is done anew at each call.
inline constexpr int64_t kLinearRows = 128;

/// Whether a CPU's linear() of so many rows [.., I] → [.., O] with operands in `type` would go through the microkernels
/// in this process: it then keeps its rows for the backward pass as they were given, and nothing of the weight.
bool linear_keeps_only_rows(int64_t rows, int64_t I, int64_t O, at::ScalarType type);

}  // namespace smoe
