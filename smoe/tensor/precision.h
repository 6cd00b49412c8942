// Precision of matrix products: parameters and sums stay fp32 (or fp64), operands may be bf16.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace smoe {

/// What matrix products compute in. kFull: the dtype of the parameters. kBf16: operands rounded to bf16, products
/// accumulated in fp32; router, softmax, norms and loss stay in the parameters' dtype.
enum class Precision { kFull, kBf16 };

/// "fp32" or "bf16"; throws UserError for anything else.
Precision parse_precision(const std::string& name);

/// The dtype of a product's operands, of parameters of dtype `type`.
at::ScalarType compute_type(at::ScalarType type, Precision precision);

/// The operand as the product wants it.
at::Tensor to_compute(const at::Tensor& x, Precision precision);

/// Batched product a [.., m, k] · b [.., k, n] → [.., m, n] in the dtype of `a`.
at::Tensor matmul(const at::Tensor& a, const at::Tensor& b, Precision precision);

}  // namespace smoe
