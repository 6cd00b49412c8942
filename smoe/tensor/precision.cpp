#include "smoe/tensor/precision.h"

#include <ATen/ops/matmul.h>

#include "smoe/base/error.h"
#include "smoe/base/suggest.h"

namespace smoe {

Precision parse_precision(const std::string& name) {
  if (name == "fp32") return Precision::kFull;
  if (name == "bf16") return Precision::kBf16;
  throw UserError("dtype '" + name + "' is not known" + suggest(name, {"fp32", "bf16"}));
}

at::ScalarType compute_type(at::ScalarType type, Precision precision) {
  return precision == Precision::kBf16 ? at::kBFloat16 : type;
}

at::Tensor to_compute(const at::Tensor& x, Precision precision) {
  return x.to(compute_type(x.scalar_type(), precision));
}

at::Tensor matmul(const at::Tensor& a, const at::Tensor& b, Precision precision) {
  return at::matmul(to_compute(a, precision), to_compute(b, precision)).to(a.scalar_type());
}

}  // namespace smoe
