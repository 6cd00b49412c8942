#include "smoe/tensor/precision.h"

#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>

#include "smoe/base/error.h"
#include "smoe/base/suggest.h"

namespace smoe {

Precision parse_precision(const std::string& name) {
  if (name == "fp32") return Precision::kFull;
  if (name == "bf16") return Precision::kBf16;
  throw UserError("dtype '" + name + "' is not known" + suggest(name, {"fp32", "bf16"}));
}

at::Tensor to_compute(const at::Tensor& x, Precision precision) {
  return precision == Precision::kBf16 ? x.to(at::kBFloat16) : x;
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, Precision precision) {
  if (precision == Precision::kFull) return at::linear(x, weight, bias);
  // The bias is added in fp32: rounding it to bf16 would make it as coarse as the products.
  const at::Tensor y = at::linear(to_compute(x, precision), to_compute(weight, precision)).to(x.scalar_type());
  return bias.defined() ? y + bias : y;
}

at::Tensor matmul(const at::Tensor& a, const at::Tensor& b, Precision precision) {
  return at::matmul(to_compute(a, precision), to_compute(b, precision)).to(a.scalar_type());
}

}  // namespace smoe
