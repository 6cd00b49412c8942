// The operator smoe::expert_gemm.
#include "smoe/kernels/expert_gemm.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <tuple>

#include "smoe/base/error.h"
#include "smoe/kernels/expert_gemm_bodies.h"
#include "smoe/tensor/maybe_tensor.h"
#include "smoe/tensor/one_device.h"

namespace smoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using ThreeTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

/// Of rows, or of the gradient of what they gave, and what groups them.
void check_groups(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w, const at::Tensor& bias) {
  require_one_device("expert_gemm", {&rows, &offsets, &w, &bias});
  require(offsets.scalar_type() == at::kInt && offsets.sizes() == at::IntArrayRef({w.size(0) + 1}),
          "expert_gemm: offsets must be int32 [E + 1] = [", w.size(0) + 1, "], got ", offsets.scalar_type(), " ",
          offsets.sizes());
  require(!bias.defined() || bias.sizes() == at::IntArrayRef({w.size(0), w.size(1)}),
          "expert_gemm: bias must be [E, N] = [", w.size(0), ", ", w.size(1), "], got ",
          bias.defined() ? bias.sizes() : at::IntArrayRef());
  require(rows.scalar_type() == at::kFloat || rows.scalar_type() == at::kDouble || rows.scalar_type() == at::kBFloat16,
          "expert_gemm: rows must be fp32, fp64 or bf16, got ", rows.scalar_type());
}

/// smoe::expert_gemm.
at::Tensor gemm_kernel(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w,
                       const MaybeTensor& maybe_bias) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);  // rows say in what to compute
  const at::Tensor bias = maybe_bias.value_or(at::Tensor());
  require(rows.dim() == 2 && w.dim() == 3 && rows.size(1) == w.size(2),
          "expert_gemm: rows must be [R, D] and w [E, N, D], got ", rows.sizes(), " and ", w.sizes());
  check_groups(rows, offsets, w, bias);
  at::Tensor out = expert_products(rows, offsets, w, bias, choose_gemm_body(rows, offsets, w));
  zero_past_the_last_group(out, offsets);
  return out;
}

/// smoe::expert_gemm_backward; a gradient that is not wanted is an empty tensor. `rows` is needed for that of w alone.
ThreeTensors backward_kernel(const at::Tensor& gradient, const MaybeTensor& rows, const at::Tensor& offsets,
                             const at::Tensor& w, const MaybeTensor& bias, std::array<bool, 3> wanted) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  require(!wanted[1] || rows, "expert_gemm_backward: the gradient of w takes rows");
  require(w.dim() == 3 && gradient.dim() == 2 && gradient.size(1) == w.size(1) &&
              (!rows || rows->sizes() == at::IntArrayRef({gradient.size(0), w.size(2)})),
          "expert_gemm_backward: gradient must be [R, N] and rows [R, D] for w [E, N, D], got ", gradient.sizes(), ", ",
          rows ? rows->sizes() : at::IntArrayRef(), " and ", w.sizes());
  check_groups(gradient, offsets, w, bias.value_or(at::Tensor()));
  if (rows) check_groups(*rows, offsets, w, at::Tensor());
  const GemmBody body = choose_gemm_body(gradient, offsets, w);
  const auto none = [&] { return at::empty({0}, gradient.options()); };  // results of an operator share no memory
  ThreeTensors out = {none(), none(), none()};
  if (wanted[0]) {
    std::get<0>(out) = expert_input_gradient(gradient, offsets, w, body);
    zero_past_the_last_group(std::get<0>(out), offsets);
  }
  if (wanted[1]) std::get<1>(out) = expert_weight_gradient(gradient, *rows, offsets, w.scalar_type(), body);
  if (wanted[2] && bias) std::get<2>(out) = expert_bias_gradient(gradient, offsets, {}, bias->scalar_type(), body);
  return out;
}

at::Tensor gemm_meta(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w,
                     const MaybeTensor& maybe_bias) {
  const at::Tensor bias = maybe_bias.value_or(at::Tensor());
  require_one_device("expert_gemm", {&rows, &offsets, &w, &bias});
  return at::empty_symint({rows.sym_size(0), w.sym_size(1)}, rows.options());
}

ThreeTensors backward_meta(const at::Tensor& gradient, const MaybeTensor&, const at::Tensor&, const at::Tensor& w,
                           const MaybeTensor& bias, std::array<bool, 3> wanted) {
  const auto none = [&] { return at::empty({0}, gradient.options()); };
  return {
      wanted[0] ? at::empty_symint({gradient.sym_size(0), w.sym_size(2)}, gradient.options()) : none(),
      wanted[1] ? at::empty_like(w, at::MemoryFormat::Contiguous) : none(),
      wanted[2] && bias ? at::empty_like(*bias, at::MemoryFormat::Contiguous) : none(),
  };
}

at::Tensor call_gemm(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w, const MaybeTensor& bias) {
  static const auto kOperator =
      c10::Dispatcher::singleton().findSchemaOrThrow("smoe::expert_gemm", "").typed<decltype(gemm_kernel)>();
  return kOperator.call(rows, offsets, w, bias);
}

class GemmFunction : public torch::autograd::Function<GemmFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows, const at::Tensor& offsets,
                            const at::Tensor& w, const MaybeTensor& bias) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const c10::List<bool> wanted({rows.requires_grad(), w.requires_grad(), bias && bias->requires_grad()});
    context->save_for_backward({wanted[1] ? rows : at::Tensor(), offsets, w, bias.value_or(at::Tensor())});
    context->saved_data["wanted"] = wanted;
    return call_gemm(rows, offsets, w, bias);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    static const auto kOperator = c10::Dispatcher::singleton()
                                      .findSchemaOrThrow("smoe::expert_gemm_backward", "")
                                      .typed<decltype(backward_kernel)>();
    const variable_list saved = context->get_saved_variables();
    const c10::List<bool> asked = context->saved_data["wanted"].toBoolList();
    const std::array<bool, 3> wanted = {asked[0], asked[1], asked[2]};
    const auto [of_rows, of_w, of_bias] =
        kOperator.call(gradients[0], given(saved[0]), saved[1], saved[2], given(saved[3]), wanted);
    const at::Tensor none;
    return {wanted[0] ? of_rows : none, none, wanted[1] ? of_w : none, wanted[2] ? of_bias : none};
  }
};

at::Tensor gemm_with_autograd(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w,
                              const MaybeTensor& bias) {
  return GemmFunction::apply(rows, offsets, w, bias);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(smoe, m) {
  m.def("expert_gemm(Tensor rows, Tensor offsets, Tensor w, Tensor? bias=None) -> Tensor");
  m.def(
      "expert_gemm_backward(Tensor gradient, Tensor? rows, Tensor offsets, Tensor w, Tensor? bias, bool[3] wanted) "
      "-> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(smoe, Autograd, m) {
  m.impl("expert_gemm", gemm_with_autograd);
  m.impl("expert_gemm_backward", torch::autograd::autogradNotImplementedFallback());
}
TORCH_LIBRARY_IMPL(smoe, CPU, m) {
  m.impl("expert_gemm", gemm_kernel);
  m.impl("expert_gemm_backward", backward_kernel);
}
TORCH_LIBRARY_IMPL(smoe, CUDA, m) {
  m.impl("expert_gemm", gemm_kernel);
  m.impl("expert_gemm_backward", backward_kernel);
}
TORCH_LIBRARY_IMPL(smoe, Meta, m) {
  m.impl("expert_gemm", gemm_meta);
  m.impl("expert_gemm_backward", backward_meta);
}

at::Tensor expert_gemm(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w, const at::Tensor& bias) {
  return call_gemm(rows, offsets, w, given(bias));
}

}  // namespace smoe
