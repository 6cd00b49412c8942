// The choice among the bodies of expert_gemm, and the plain one.
#include "smoe/kernels/expert_gemm_bodies.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "smoe/base/error.h"
#include "smoe/kernels/kernel_choice.h"
#include "smoe/kernels/row_linear.h"
#include "smoe/kernels/row_plan.h"
#include "smoe/tensor/one_thread.h"

namespace smoe {
namespace {

at::ScalarType sum_type(const at::Tensor& t) { return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

at::Tensor group(const at::Tensor& rows, const std::vector<int64_t>& first, int64_t e) {
  const auto at = static_cast<size_t>(e);
  return rows.narrow(0, first[at], first[at + 1] - first[at]);
}

at::Tensor products_plain(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w,
                          const at::Tensor& bias) {
  const std::vector<int64_t> first = offsets_on_cpu(offsets, rows.size(0));
  at::Tensor out = at::empty({rows.size(0), w.size(1)}, rows.options());
  for (int64_t e = 0; e < w.size(0); ++e) {
    const at::Tensor of_expert = group(rows, first, e);
    if (of_expert.size(0) == 0) continue;
    const auto cast = [&](const at::Tensor& t) { return t.defined() ? t.select(0, e).to(rows.scalar_type()) : t; };
    group(out, first, e).copy_(row_linear(of_expert, cast(w), cast(bias)));
  }
  return out;
}

/// Calls f(e, first row of w's matrix, rows of it) for pieces of the experts' matrices of N rows; on a CPU by all threads,
/// in pieces that do not depend on their number.
template <class F>
void for_matrix_rows(const at::Tensor& like, int64_t experts, int64_t N, const F& f) {
  constexpr int64_t kPiece = 256;
  if (!like.is_cpu()) {
    for (int64_t e = 0; e < experts; ++e) f(e, 0, N);
    return;
  }
  const int64_t pieces = (N + kPiece - 1) / kPiece;
  at::parallel_for(0, experts * pieces, 1, [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;  // threads do not inherit that it is off
    const OneThreadProducts one_thread;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i % pieces * kPiece;
      f(i / pieces, n, std::min(kPiece, N - n));
    }
  });
}

at::Tensor weight_gradient_plain(const at::Tensor& gradient, const at::Tensor& rows, const at::Tensor& offsets,
                                 at::ScalarType type) {
  const std::vector<int64_t> first = offsets_on_cpu(offsets, rows.size(0));
  const auto experts = static_cast<int64_t>(first.size()) - 1;
  at::Tensor out = at::empty({experts, gradient.size(1), rows.size(1)}, rows.options().dtype(type));
  for_matrix_rows(rows, experts, gradient.size(1), [&](int64_t e, int64_t n, int64_t count) {
    const at::Tensor g = group(gradient, first, e).narrow(1, n, count).to(sum_type(rows));
    at::Tensor piece = out.select(0, e).narrow(0, n, count);
    const at::Tensor x = group(rows, first, e).to(sum_type(rows));
    if (type == x.scalar_type()) {
      at::mm_out(piece, g.t(), x);
    } else {
      piece.copy_(at::mm(g.t(), x));
    }
  });
  return out;
}

at::Tensor bias_gradient_plain(const at::Tensor& gradient, const at::Tensor& offsets, const at::Tensor& scale,
                               at::ScalarType type) {
  const std::vector<int64_t> first = offsets_on_cpu(offsets, gradient.size(0));
  const auto experts = static_cast<int64_t>(first.size()) - 1;
  at::Tensor out = at::empty({experts, gradient.size(1)}, gradient.options().dtype(type));
  for_matrix_rows(gradient, experts, gradient.size(1), [&](int64_t e, int64_t n, int64_t count) {
    at::Tensor g = group(gradient, first, e).narrow(1, n, count).to(sum_type(gradient));
    if (scale.defined()) g = g * group(scale, first, e).unsqueeze(1);
    out.select(0, e).narrow(0, n, count).copy_(at::sum(g, {0}, /*keepdim=*/false, sum_type(gradient)));
  });
  return out;
}

}  // namespace

GemmBody choose_gemm_body(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w) {
  const KernelChoice forced = forced_kernels();
  if (forced == KernelChoice::kReference) return GemmBody::kPlain;
  if ((forced == KernelChoice::kGrouped || rows.is_cuda()) && expert_grouped_takes(rows.scalar_type(), offsets, w)) {
    return GemmBody::kGrouped;
  }
  return forced == KernelChoice::kAny && expert_blocks_take(rows, w) ? GemmBody::kBlocks : GemmBody::kPlain;
}

std::vector<int64_t> offsets_on_cpu(const at::Tensor& offsets, int64_t rows) {
  const at::Tensor here = offsets.to(at::kCPU).contiguous();
  const int32_t* data = here.const_data_ptr<int32_t>();
  std::vector<int64_t> out(data, data + here.numel());
  require(out.front() == 0 && out.back() <= rows && std::is_sorted(out.begin(), out.end()),
          "expert_gemm: offsets must ascend from 0 to at most R = ", rows, ", as dispatch gives them, got ",
          at::IntArrayRef(out));
  return out;
}

void zero_past_the_last_group(at::Tensor& out, const at::Tensor& offsets) {
  if (out.is_cpu()) {
    const int64_t end = offsets_on_cpu(offsets, out.size(0)).back();
    out.narrow(0, end, out.size(0) - end).zero_();
    return;
  }
  const at::Tensor end = offsets.narrow(0, offsets.size(0) - 1, 1);
  out.masked_fill_(at::arange(out.size(0), offsets.options()).ge(end).unsqueeze(1), 0);
}

void add_expert_bias(at::Tensor& rows, const at::Tensor& bias, const at::Tensor& offsets) {
  if (!bias.defined()) return;
  const at::Tensor none = at::zeros({1, bias.size(1)}, rows.options());  // for rows past the last group
  const at::Tensor by_expert = at::cat({bias.to(rows.scalar_type()), none});
  rows.add_(by_expert.index_select(0, expert_of_rows(offsets, rows.size(0))));
}

at::Tensor expert_products(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w,
                           const at::Tensor& bias, GemmBody body) {
  switch (body) {
    case GemmBody::kBlocks: return expert_products_blocks(rows, offsets, w, bias);
    case GemmBody::kGrouped: return expert_products_grouped(rows, offsets, w, bias);
    default: return products_plain(rows, offsets, w, bias);
  }
}

at::Tensor expert_input_gradient(const at::Tensor& gradient, const at::Tensor& offsets, const at::Tensor& w,
                                 GemmBody body) {
  switch (body) {
    case GemmBody::kBlocks: return expert_input_gradient_blocks(gradient, offsets, w);
    case GemmBody::kGrouped: return expert_input_gradient_grouped(gradient, offsets, w);
    default: return products_plain(gradient, offsets, w.transpose(1, 2), at::Tensor());
  }
}

at::Tensor expert_weight_gradient(const at::Tensor& gradient, const at::Tensor& rows, const at::Tensor& offsets,
                                  at::ScalarType type, GemmBody body) {
  if (body != GemmBody::kGrouped) return weight_gradient_plain(gradient, rows, offsets, type);
  return expert_weight_gradient_grouped(gradient, rows, offsets).to(type).contiguous();
}

at::Tensor expert_bias_gradient(const at::Tensor& gradient, const at::Tensor& offsets, const at::Tensor& scale,
                                at::ScalarType type, GemmBody body) {
  if (body != GemmBody::kGrouped) return bias_gradient_plain(gradient, offsets, scale, type);
  return expert_bias_gradient_grouped(gradient, offsets, scale).to(type).contiguous();
}

}  // namespace smoe
