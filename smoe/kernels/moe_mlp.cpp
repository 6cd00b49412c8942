// The operators smoe::moe_mlp, smoe::moe_mlp_forward and smoe::moe_mlp_backward. The first is what callers see; the other
// two are what autograd and tracing see of it, each with shapes that follow from those of its inputs alone.
#include "smoe/kernels/moe_mlp.h"

#include <ATen/Context.h>
#include <ATen/FuncTorchTLS.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "smoe/base/error.h"
#include "smoe/base/suggest.h"
#include "smoe/kernels/expert_gemm_bodies.h"
#include "smoe/kernels/kernel_choice.h"
#include "smoe/kernels/moe_mlp_bodies.h"
#include "smoe/kernels/row_plan.h"
#include "smoe/tensor/maybe_tensor.h"
#include "smoe/tensor/one_device.h"

namespace smoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check_arguments(const MlpCall& call) {
  const auto& [x, expert, weight, w, options] = call;
  require_one_device("moe_mlp", {&x, &expert, &weight, &w.w1, &w.b1, &w.w2, &w.b2});
  require(w.w1.dim() == 3 && w.w2.dim() == 3, "moe_mlp: w1 must be [E, H, D] and w2 [E, D, H], got ", w.w1.sizes(),
          " and ", w.w2.sizes());
  const int64_t halves = is_gated(options.activation) ? 2 : 1;
  const int64_t E = w.w1.size(0), rows = w.w1.size(1), H = rows / halves, D = w.w1.size(2);
  require(rows > 0 && D > 0, "moe_mlp: H and D must be at least 1, got w1 ", w.w1.sizes());
  require(rows % halves == 0, "moe_mlp: with a gated activation w1 must be [E, 2 H, D], got ", w.w1.sizes());
  require(w.w2.sizes() == at::IntArrayRef({E, D, H}), "moe_mlp: w2 must be [E, D, H] = [", E, ", ", D, ", ", H,
          "], got ", w.w2.sizes());
  require(!w.b1.defined() || w.b1.sizes() == at::IntArrayRef({E, rows}), "moe_mlp: b1 must be [E, ",
          halves == 2 ? "2 H" : "H", "] = [", E, ", ", rows, "], got ",
          w.b1.defined() ? w.b1.sizes() : at::IntArrayRef());
  require(!w.b2.defined() || w.b2.sizes() == at::IntArrayRef({E, D}), "moe_mlp: b2 must be [E, D] = [", E, ", ", D,
          "], got ", w.b2.defined() ? w.b2.sizes() : at::IntArrayRef());
  require(x.dim() == 2 && x.size(1) == D, "moe_mlp: x must be [T, D = ", D, "], got ", x.sizes());
  require(expert.dim() == 2 && expert.size(0) == x.size(0), "moe_mlp: expert must be [T = ", x.size(0), ", K], got ",
          expert.sizes());
  require(expert.scalar_type() == at::kInt || expert.scalar_type() == at::kLong,
          "moe_mlp: expert must be int32 or int64, got ", expert.scalar_type());
  require(weight.sizes() == expert.sizes(), "moe_mlp: weight must have the shape of expert, ", expert.sizes(), ", got ",
          weight.sizes());
  require(options.dropout_p >= 0 && options.dropout_p < 1, "moe_mlp: dropout must be in [0, 1), got ",
          options.dropout_p);
}

MlpCall make_call(const at::Tensor& x, const at::Tensor& expert, const at::Tensor& weight, const at::Tensor& w1,
                  const MaybeTensor& b1, const at::Tensor& w2, const MaybeTensor& b2, c10::string_view activation,
                  double dropout_p, int64_t dropout_key) {
  const MlpOptions options{.activation = parse_activation(std::string(activation)),
                           .dropout_p = dropout_p,
                           .dropout_key = static_cast<uint64_t>(dropout_key)};
  MlpCall call{x, expert, weight, {w1, b1.value_or(at::Tensor()), w2, b2.value_or(at::Tensor())}, options};
  check_arguments(call);
  return call;
}

const std::vector<std::string>& body_names() {
  static const std::vector<std::string> kNames = {"reference", "grouped", "blocks"};  // in the order of the enum
  return kNames;
}

const std::string& name_of(MlpBody body) { return body_names()[static_cast<size_t>(body)]; }

/// The fastest body, or the one that SMOE_KERNEL asks for. Asked above the dispatcher, where tracing still sees devices.
const std::string& choose_body(const at::Tensor& x, const MlpWeights& weights, c10::string_view activation) {
  const auto choose = [&] {
    const KernelChoice forced = forced_kernels();
    if (forced == KernelChoice::kReference) return MlpBody::kReference;
    if (forced == KernelChoice::kGrouped) return MlpBody::kGrouped;
    const Activation kind = parse_activation(std::string(activation));
    if (weights.w2.dim() == 3 && moe_mlp_cpu_takes(x, weights, kind)) return MlpBody::kBlocks;
    return moe_mlp_grouped_is_for(x) ? MlpBody::kGrouped : MlpBody::kReference;
  };
  return name_of(choose());
}

MlpBody parse_body(const MlpCall& call, c10::string_view name) {
  const auto found = std::find(body_names().begin(), body_names().end(), name);
  if (found == body_names().end()) {
    throw UserError(concat("moe_mlp: body '", name, "' is not known", suggest(std::string(name), body_names())));
  }
  const auto body = static_cast<MlpBody>(found - body_names().begin());
  require(body != MlpBody::kBlocks || moe_mlp_cpu_takes(call.x, call.weights, call.options.activation),
          "moe_mlp: body 'blocks' does not compute ", call.x.scalar_type(), " on ", call.x.device(),
          at::globalContext().userEnabledMkldnn() ? "" : " while oneDNN is switched off");
  return body;
}

/// Hidden rows that a body's forward pass leaves for its backward pass.
c10::SymInt hidden_rows(const c10::SymInt& slots, const c10::SymInt& experts, c10::string_view body) {
  if (body == name_of(MlpBody::kBlocks)) return slots;
  if (body == name_of(MlpBody::kGrouped)) return rows_of_slots(slots, experts, kGroupedAlign);
  return 0;
}

void check_backward(const MlpCall& call, const at::Tensor& hidden, const at::Tensor& gradient, MlpBody body) {
  require_one_device("moe_mlp_backward", {&call.x, &hidden, &gradient});
  require(gradient.sizes() == call.x.sizes(), "moe_mlp_backward: the gradient must be [T, D] = ", call.x.sizes(),
          ", got ", gradient.sizes());
  const int64_t rows = hidden_rows(call.expert.numel(), call.weights.w1.size(0), name_of(body)).expect_int();
  require(hidden.sizes() == at::IntArrayRef({rows, call.weights.w1.size(1)}) &&
              hidden.scalar_type() == call.x.scalar_type(),
          "moe_mlp_backward: hidden must be what moe_mlp_forward leaves with keep_hidden, ", call.x.scalar_type(), " [",
          rows, ", ", call.weights.w1.size(1), "], got ", hidden.scalar_type(), " ", hidden.sizes());
}

std::tuple<at::Tensor, at::Tensor> as_tuple(const MlpForward& result) { return {result.y, result.hidden}; }

/// smoe::moe_mlp_forward.
std::tuple<at::Tensor, at::Tensor> forward_kernel(const at::Tensor& x, const at::Tensor& expert,
                                                  const at::Tensor& weight, const at::Tensor& w1, const MaybeTensor& b1,
                                                  const at::Tensor& w2, const MaybeTensor& b2,
                                                  c10::string_view activation, double dropout_p, int64_t dropout_key,
                                                  bool keep_hidden, c10::string_view body) {
  const at::NoGradGuard no_grad;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);  // x says in what to compute
  const MlpCall call = make_call(x, expert, weight, w1, b1, w2, b2, activation, dropout_p, dropout_key);
  switch (parse_body(call, body)) {
    case MlpBody::kReference: return {moe_mlp_reference(call), at::empty({0, w1.size(1)}, x.options())};
    case MlpBody::kGrouped: return as_tuple(moe_mlp_grouped_forward(call, keep_hidden));
    default: return as_tuple(moe_mlp_cpu_forward(call, keep_hidden));
  }
}

/// The plain body once more, now with autograd, which the dispatcher has switched off below an operator.
MlpGradients reference_backward(MlpCall call, const at::Tensor& gradient, const MlpWanted& wanted) {
  const c10::impl::LocalDispatchKeySet local = c10::impl::tls_local_dispatch_key_set();
  const c10::impl::ForceDispatchKeyGuard with_autograd(
      local.included_,
      local.excluded_ - c10::autograd_dispatch_keyset - c10::DispatchKeySet(c10::DispatchKey::ADInplaceOrView));
  const at::AutoGradMode grad(true);
  const std::array<at::Tensor*, 6> inputs = {&call.x,          &call.weight,     &call.weights.w1,
                                             &call.weights.b1, &call.weights.w2, &call.weights.b2};
  variable_list asked;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i]->defined()) *inputs[i] = inputs[i]->detach().requires_grad_(wanted[i]);
    if (wanted[i]) asked.push_back(*inputs[i]);
  }
  const variable_list found = torch::autograd::grad({moe_mlp_reference(call)}, asked, {gradient});
  MlpGradients out;
  size_t next = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (wanted[i]) out[i] = found[next++];
  }
  return out;
}

/// Whether the grouped body multiplies in another dtype than the matrices have, on a GPU. They are converted once then,
/// for both passes.
bool converts(const at::Tensor& x, const at::Tensor& w1, const at::Tensor& w2, const std::string& body) {
  if (!x.is_cuda() || body != name_of(MlpBody::kGrouped)) return false;
  const auto taken = [&](const at::Tensor& w) {
    return w.is_cuda() && w.dim() == 3 && expert_grouped_takes(x.scalar_type(), {}, w);
  };
  const bool differ = w1.scalar_type() != x.scalar_type() && w2.scalar_type() != x.scalar_type();
  return differ && taken(w1) && taken(w2);
}

using SixTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

/// smoe::moe_mlp_backward; a gradient that is not wanted is an empty tensor.
SixTensors backward_kernel(const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& expert,
                           const at::Tensor& weight, const at::Tensor& w1, const MaybeTensor& b1, const at::Tensor& w2,
                           const MaybeTensor& b2, const at::Tensor& hidden, c10::string_view activation,
                           double dropout_p, int64_t dropout_key, std::array<bool, 6> wanted, c10::string_view body) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const MlpCall call = make_call(x, expert, weight, w1, b1, w2, b2, activation, dropout_p, dropout_key);
  const MlpBody chosen = parse_body(call, body);
  check_backward(call, hidden, gradient, chosen);
  const auto run = [&] {
    switch (chosen) {
      case MlpBody::kReference: return reference_backward(call, gradient, wanted);
      case MlpBody::kGrouped: return moe_mlp_grouped_backward(call, hidden.contiguous(), gradient, wanted);
      default: return moe_mlp_cpu_backward(call, hidden.contiguous(), gradient, wanted);
    }
  };
  MlpGradients out = run();
  for (at::Tensor& each : out) {
    if (!each.defined()) each = at::empty({0}, x.options());
  }
  return {out[0], out[1], out[2], out[3], out[4], out[5]};
}

std::tuple<at::Tensor, at::Tensor> forward_meta(const at::Tensor& x, const at::Tensor& expert, const at::Tensor& weight,
                                                const at::Tensor& w1, const MaybeTensor& b1, const at::Tensor& w2,
                                                const MaybeTensor& b2, c10::string_view, double, int64_t,
                                                bool keep_hidden, c10::string_view body) {
  const at::Tensor bias1 = b1.value_or(at::Tensor()), bias2 = b2.value_or(at::Tensor());
  require_one_device("moe_mlp", {&x, &expert, &weight, &w1, &bias1, &w2, &bias2});
  const c10::SymInt slots = x.sym_size(0) * expert.sym_size(1);
  const c10::SymInt rows = keep_hidden ? hidden_rows(slots, w1.sym_size(0), body) : c10::SymInt(0);
  return {at::empty_like(x, at::MemoryFormat::Contiguous), at::empty_symint({rows, w1.sym_size(1)}, x.options())};
}

SixTensors backward_meta(const at::Tensor&, const at::Tensor& x, const at::Tensor&, const at::Tensor& weight,
                         const at::Tensor& w1, const MaybeTensor& b1, const at::Tensor& w2, const MaybeTensor& b2,
                         const at::Tensor&, c10::string_view, double, int64_t, std::array<bool, 6> wanted,
                         c10::string_view) {
  const auto like = [&](size_t i, const at::Tensor& of) {
    return wanted[i] ? at::empty_like(of, at::MemoryFormat::Contiguous) : at::empty({0}, x.options());
  };
  const at::Tensor none;
  return {like(0, x),  like(1, weight),           like(2, w1), like(3, b1.value_or(none)),
          like(4, w2), like(5, b2.value_or(none))};
}

class MoeMlpFunction : public torch::autograd::Function<MoeMlpFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& expert,
                            const at::Tensor& weight, const at::Tensor& w1, const MaybeTensor& b1, const at::Tensor& w2,
                            const MaybeTensor& b2, const std::string& activation, double dropout_p,
                            int64_t dropout_key) {
    static const auto kOperator =
        c10::Dispatcher::singleton().findSchemaOrThrow("smoe::moe_mlp_forward", "").typed<decltype(forward_kernel)>();
    const at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor none;
    const std::string& body = choose_body(x, {w1, b1.value_or(none), w2, b2.value_or(none)}, activation);
    const bool converted = converts(x, w1, w2, body);
    const at::Tensor first = converted ? w1.to(x.scalar_type()) : w1;
    const at::Tensor second = converted ? w2.to(x.scalar_type()) : w2;
    const auto [y, hidden] =
        kOperator.call(x, expert, weight, first, b1, second, b2, activation, dropout_p, dropout_key,
                       /*keep_hidden=*/true, body);
    const at::Tensor bias1 = b1.value_or(none), bias2 = b2.value_or(none);
    context->save_for_backward({x, expert, weight, first, bias1, second, bias2, hidden});
    context->saved_data["types"] =
        std::vector<int64_t>{static_cast<int64_t>(w1.scalar_type()), static_cast<int64_t>(w2.scalar_type())};
    const std::array<at::Tensor, 6> inputs = {x, weight, w1, bias1, w2, bias2};
    c10::List<bool> wanted;
    for (const at::Tensor& input : inputs) wanted.push_back(input.defined() && input.requires_grad());
    context->saved_data["wanted"] = wanted;
    context->saved_data["activation"] = activation;
    context->saved_data["dropout_p"] = dropout_p;
    context->saved_data["dropout_key"] = dropout_key;
    context->saved_data["body"] = body;
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    static const auto kOperator =
        c10::Dispatcher::singleton().findSchemaOrThrow("smoe::moe_mlp_backward", "").typed<decltype(backward_kernel)>();
    const variable_list s = context->get_saved_variables();
    auto& data = context->saved_data;
    std::array<bool, 6> wanted{};
    const c10::List<bool> asked = data["wanted"].toBoolList();
    for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = asked[i];
    auto [x, weight, w1, b1, w2, b2] = kOperator.call(
        gradients[0], s[0], s[1], s[2], s[3], given(s[4]), s[5], given(s[6]), s[7], data["activation"].toStringRef(),
        data["dropout_p"].toDouble(), data["dropout_key"].toInt(), wanted, data["body"].toStringRef());
    std::array<at::Tensor, 6> out = {x, weight, w1, b1, w2, b2};
    for (size_t i = 0; i < out.size(); ++i) {
      if (!wanted[i]) out[i] = at::Tensor();
    }
    const std::vector<int64_t> types = data["types"].toIntVector();  // those of w1 and w2 before they were converted
    if (wanted[2]) out[2] = out[2].to(static_cast<at::ScalarType>(types[0]));
    if (wanted[4]) out[4] = out[4].to(static_cast<at::ScalarType>(types[1]));
    const at::Tensor none;
    return {out[0], none, out[1], out[2], out[3], out[4], out[5], none, none, none};
  }
};

/// smoe::moe_mlp where nobody asks for a gradient.
at::Tensor without_autograd(const at::Tensor& x, const at::Tensor& expert, const at::Tensor& weight,
                            const at::Tensor& w1, const MaybeTensor& b1, const at::Tensor& w2, const MaybeTensor& b2,
                            c10::string_view activation, double dropout_p, int64_t dropout_key) {
  static const auto kOperator =
      c10::Dispatcher::singleton().findSchemaOrThrow("smoe::moe_mlp_forward", "").typed<decltype(forward_kernel)>();
  const at::Tensor none;
  const std::string& body = choose_body(x, {w1, b1.value_or(none), w2, b2.value_or(none)}, activation);
  return std::get<0>(kOperator.call(x, expert, weight, w1, b1, w2, b2, activation, dropout_p, dropout_key,
                                    /*keep_hidden=*/false, body));
}

/// Whether a gradient is asked for. A tangent asks for one, too: apply() says that there is none forwards.
bool wants_gradient(const at::Tensor& t) {
  if (!t.defined()) return false;
  return (at::GradMode::is_enabled() && t.requires_grad()) || t._fw_grad(/*level=*/0).defined();
}

/// smoe::moe_mlp where somebody may ask for a gradient.
at::Tensor with_autograd(const at::Tensor& x, const at::Tensor& expert, const at::Tensor& weight, const at::Tensor& w1,
                         const MaybeTensor& b1, const at::Tensor& w2, const MaybeTensor& b2,
                         c10::string_view activation, double dropout_p, int64_t dropout_key) {
  const at::Tensor none;
  const std::array<at::Tensor, 6> inputs = {x, weight, w1, b1.value_or(none), w2, b2.value_or(none)};
  // Within functorch an outer level may ask where this one does not; apply() refuses what it cannot do there.
  const bool transformed = at::functorch::functorchTLSAccessor() != nullptr;
  if (!transformed && std::none_of(inputs.begin(), inputs.end(), wants_gradient)) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return without_autograd(x, expert, weight, w1, b1, w2, b2, activation, dropout_p, dropout_key);
  }
  return MoeMlpFunction::apply(x, expert, weight, w1, b1, w2, b2, std::string(activation), dropout_p, dropout_key);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(smoe, m) {
  m.def(
      "moe_mlp(Tensor x, Tensor expert, Tensor weight, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, "
      "str activation='relu', float dropout_p=0.0, int dropout_key=0) -> Tensor");
  m.def(
      "moe_mlp_forward(Tensor x, Tensor expert, Tensor weight, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, "
      "str activation, float dropout_p, int dropout_key, bool keep_hidden, str body) -> (Tensor, Tensor)");
  m.def(
      "moe_mlp_backward(Tensor gradient, Tensor x, Tensor expert, Tensor weight, Tensor w1, Tensor? b1, Tensor w2, "
      "Tensor? b2, Tensor hidden, str activation, float dropout_p, int dropout_key, bool[6] wanted, str body) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("forget_packed_weights() -> ()", forget_packed_weights);
}

TORCH_LIBRARY_IMPL(smoe, CompositeExplicitAutograd, m) { m.impl("moe_mlp", without_autograd); }
TORCH_LIBRARY_IMPL(smoe, Autograd, m) {
  m.impl("moe_mlp", with_autograd);
  m.impl("moe_mlp_forward", torch::autograd::autogradNotImplementedFallback());
  m.impl("moe_mlp_backward", torch::autograd::autogradNotImplementedFallback());
}

TORCH_LIBRARY_IMPL(smoe, CPU, m) {
  m.impl("moe_mlp_forward", forward_kernel);
  m.impl("moe_mlp_backward", backward_kernel);
}
TORCH_LIBRARY_IMPL(smoe, CUDA, m) {
  m.impl("moe_mlp_forward", forward_kernel);
  m.impl("moe_mlp_backward", backward_kernel);
}
TORCH_LIBRARY_IMPL(smoe, Meta, m) {
  m.impl("moe_mlp_forward", forward_meta);
  m.impl("moe_mlp_backward", backward_meta);
}

at::Tensor moe_mlp(const at::Tensor& x, const at::Tensor& expert, const at::Tensor& weight, const MlpWeights& weights,
                   Activation activation, double dropout_p, uint64_t dropout_key) {
  static const auto kOperator =
      c10::Dispatcher::singleton().findSchemaOrThrow("smoe::moe_mlp", "").typed<decltype(with_autograd)>();
  return kOperator.call(x, expert, weight, weights.w1, given(weights.b1), weights.w2, given(weights.b2),
                        activation_names()[static_cast<size_t>(activation)], dropout_p,
                        static_cast<int64_t>(dropout_key));
}

}  // namespace smoe
