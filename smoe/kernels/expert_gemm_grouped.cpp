// expert_gemm on at::_grouped_mm: all experts in one call that does not wait for the device. What it leaves open is
// closed here: it does not write the rows past the last group, and on some devices not the matrices of empty groups.
#include <ATen/ops/_grouped_mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "smoe/kernels/expert_gemm_bodies.h"
#include "smoe/kernels/row_kernels.h"
#include "smoe/kernels/row_linear.h"
#include "smoe/tensor/one_thread.h"

namespace smoe {
namespace {

// at::_grouped_mm wants rows that begin at multiples of 16 bytes. On a CPU it multiplies through MKL, where a row keeps
// its bits in groups and widths of whole tiles (kernels/row_linear.h), so all sizes are multiples of this.
constexpr int64_t kWidthTile = 16;

/// Where each group ends.
at::Tensor ends(const at::Tensor& offsets) { return offsets.narrow(0, 1, offsets.size(0) - 1).contiguous(); }

at::Tensor operand(const at::Tensor& t, const at::Tensor& like) { return t.to(like.scalar_type()).contiguous(); }

/// Σ over the rows of each group of aᵀ · b → [E, columns of a, columns of b], zero for an empty group.
at::Tensor sum_of_products(const at::Tensor& a, const at::Tensor& b, const at::Tensor& offsets) {
  const at::Tensor until = ends(offsets);
  if (a.size(0) == 0) return at::zeros({until.size(0), a.size(1), b.size(1)}, a.options());
  const OneThreadProducts one_thread;
  at::Tensor sum = at::_grouped_mm(a.contiguous().t(), b.contiguous(), until);
  if (row_kernels_take(sum)) {
    zero_empty_groups_cuda(sum, offsets);
    return sum;
  }
  const at::Tensor is_empty = until.eq(offsets.narrow(0, 0, until.size(0)));
  return sum.masked_fill(is_empty.view({-1, 1, 1}), 0);
}

}  // namespace

bool expert_grouped_takes(at::ScalarType type, const at::Tensor& offsets, const at::Tensor& w) {
  if (w.size(0) == 0 || w.size(1) == 0 || w.size(2) == 0) return false;
  if (w.size(1) % kWidthTile != 0 || w.size(2) % kWidthTile != 0) return false;
  if (w.is_cuda()) return type == at::kBFloat16;
  return w.is_cpu() && (type == at::kBFloat16 || type == at::kFloat) &&
         offsets.remainder(kRowTile).eq(0).all().item<bool>();
}

at::Tensor expert_products_grouped(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w,
                                   const at::Tensor& bias) {
  if (rows.size(0) == 0) return at::zeros({0, w.size(1)}, rows.options());
  const at::Tensor until = ends(offsets);
  const OneThreadProducts one_thread;
  at::Tensor out = at::_grouped_mm(rows.contiguous(), operand(w, rows).transpose(1, 2), until);
  add_expert_bias(out, bias, offsets);
  return out;
}

at::Tensor expert_input_gradient_grouped(const at::Tensor& gradient, const at::Tensor& offsets, const at::Tensor& w) {
  if (gradient.size(0) == 0) return at::zeros({0, w.size(2)}, gradient.options());
  const OneThreadProducts one_thread;
  // An expanded gradient has strides that at::_grouped_mm refuses.
  return at::_grouped_mm(gradient.contiguous(), operand(w, gradient), ends(offsets));
}

at::Tensor expert_weight_gradient_grouped(const at::Tensor& gradient, const at::Tensor& rows,
                                          const at::Tensor& offsets) {
  return sum_of_products(gradient, rows, offsets);
}

at::Tensor expert_bias_gradient_grouped(const at::Tensor& gradient, const at::Tensor& offsets,
                                        const at::Tensor& scale) {
  if (row_kernels_take(gradient)) return column_sums_cuda(gradient, offsets, scale);
  // A sum of rows is a product with ones; as a product it has a fixed order, which an indexed sum on a GPU has not.
  const at::Tensor ones = scale.defined() ? scale.to(gradient.scalar_type()).unsqueeze(1)
                                          : at::ones({gradient.size(0), 1}, gradient.options());
  return sum_of_products(gradient, ones.expand({gradient.size(0), kWidthTile}), offsets).select(2, 0);
}

}  // namespace smoe
