#include "smoe/kernels/linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>

#include "smoe/kernels/kernel_choice.h"

namespace smoe {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, Precision precision) {
  if (precision == Precision::kFull) {
    if (!reference_kernels_forced() && linear_cpu_takes(x, weight, bias)) return linear_cpu(x, weight, bias);
    return linear_reference(x, weight, bias);
  }
  // The bias is added in fp32: rounding it to bf16 would make it as coarse as the products.
  const at::Tensor y = at::linear(to_compute(x, precision), to_compute(weight, precision)).to(x.scalar_type());
  return bias.defined() ? y + bias : y;
}

at::Tensor linear_reference(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return at::linear(x, weight, bias);
}

}  // namespace smoe
