// Linear maps of the parts around the mixtures: projections of attention, dense feed-forward blocks, the output.
#pragma once

#include <ATen/core/Tensor.h>

#include "smoe/tensor/precision.h"

namespace smoe {

/// x [.., I] · weightᵀ [I, O] + bias [O] (may be undefined) → [.., O] in the dtype of x, with autograd. With kBf16 the operands
/// are rounded to bf16, products accumulated and the bias added in fp32. On a CPU with oneDNN's block microkernels, many
/// rows in fp32 go through these; all else, and SMOE_KERNEL=reference, through LibTorch's linear.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, Precision precision);

/// The bodies for fp32, which agree to rounding. The second wants at least kLinearRows rows.
at::Tensor linear_reference(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
bool linear_cpu_takes(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
at::Tensor linear_cpu(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// Fewer rows do not repay the packing of the weight, which is done anew at each call.
inline constexpr int64_t kLinearRows = 128;

}  // namespace smoe
