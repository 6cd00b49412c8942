#include "smoe/kernels/linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>

#include "smoe/kernels/block_gemm.h"
#include "smoe/kernels/kernel_choice.h"

namespace smoe {
namespace {

/// Whether the microkernels take `rows`, rounded already, and a weight that this precision rounds to their dtype.
bool goes_through_blocks(const at::Tensor& rows, const at::Tensor& weight, const at::Tensor& bias,
                         Precision precision) {
  return !reference_kernels_forced() && compute_type(weight.scalar_type(), precision) == rows.scalar_type() &&
         linear_cpu_takes(rows, weight, bias);
}

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, Precision precision) {
  const at::Tensor rows = to_compute(x, precision);
  if (goes_through_blocks(rows, weight, bias, precision)) {
    return linear_cpu({}, rows, weight, bias, x.scalar_type());
  }
  return linear_reference(rows, weight, bias, precision).to(x.scalar_type());
}

at::Tensor linear_after(const at::Tensor& memory, const at::Tensor& x, const at::Tensor& weight, Precision precision) {
  if (memory.size(1) == 0) return linear(x, weight, {}, precision);
  const at::Tensor rows = to_compute(x, precision);
  if (goes_through_blocks(rows, weight, {}, precision)) {
    return linear_cpu(to_compute(memory, precision), rows, weight, {}, x.scalar_type());
  }
  return linear(at::cat({memory, x}, 1), weight, {}, precision);
}

at::Tensor linear_reference(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                            Precision precision) {
  if (precision == Precision::kFull) return at::linear(x, weight, bias);
  // The bias is added in fp32: rounding it to bf16 would make it as coarse as the products.
  const at::Tensor y = at::linear(to_compute(x, precision), to_compute(weight, precision));
  return bias.defined() ? y.to(bias.scalar_type()) + bias : y;
}

bool linear_keeps_only_rows(int64_t rows, int64_t I, int64_t O, at::ScalarType type) {
  return !reference_kernels_forced() && has_block_gemm(type) && in_pairs(type, I) && in_pairs(type, O) &&
         rows >= kLinearRows;
}

}  // namespace smoe
