#include "smoe/kernels/activation.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/threshold_backward.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "smoe/base/error.h"
#include "smoe/base/suggest.h"

namespace smoe {
namespace {

// LibTorch's vector loops take such a number of elements without a rest, and do not share it among threads.
constexpr int64_t kVectors = 64, kBlock = 256 * kVectors;

void activate_into(at::Tensor out, const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::kRelu: at::relu_out(out, x); return;
    case Activation::kGelu: at::gelu_out(out, x); return;
    case Activation::kGeluTanh: at::gelu_out(out, x, "tanh"); return;
    case Activation::kSilu: at::silu_out(out, x); return;
    default: throw Failure("activate: a gated activation is no function of one element");
  }
}

/// The function of each element, the same bits wherever in x it stands: LibTorch's scalar loop, which takes the elements
/// that fill no vector at the end of x or of a thread's share, rounds otherwise than its vector loop.
at::Tensor activate_elements(const at::Tensor& x, Activation activation) {
  at::Tensor out = at::empty_like(x);
  const at::Tensor from = x.view({-1}), to = out.view({-1});
  const int64_t rest = from.size(0) % kVectors, whole = from.size(0) - rest;
  at::parallel_for(0, (whole + kBlock - 1) / kBlock, 1, [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;  // threads do not inherit that it is off
    for (int64_t i = begin * kBlock; i < std::min(end * kBlock, whole); i += kBlock) {
      const int64_t size = std::min(kBlock, whole - i);
      activate_into(to.narrow(0, i, size), from.narrow(0, i, size), activation);
    }
  });
  if (rest > 0) {
    const at::Tensor filled = at::zeros({kVectors}, x.options());
    filled.narrow(0, 0, rest).copy_(from.narrow(0, whole, rest));
    activate_into(filled, filled.clone(), activation);
    to.narrow(0, whole, rest).copy_(filled.narrow(0, 0, rest));
  }
  return out;
}

class ActivateFunction : public torch::autograd::Function<ActivateFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, int64_t activation) {
    context->save_for_backward({x});
    context->saved_data["activation"] = activation;
    if (x.is_cpu()) return activate_elements(x.contiguous(), static_cast<Activation>(activation));
    at::Tensor out = at::empty_like(x);
    activate_into(out, x, static_cast<Activation>(activation));
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradient) {
    const auto activation = static_cast<Activation>(context->saved_data["activation"].toInt());
    return {activate_backward(gradient[0], context->get_saved_variables()[0], activation), at::Tensor()};
  }
};

}  // namespace

const std::vector<std::string>& activation_names() {
  static const std::vector<std::string> kNames = {"relu",  "gelu",  "gelu_tanh",  "silu",  // in the order of the enum
                                                  "reglu", "geglu", "geglu_tanh", "swiglu"};
  return kNames;
}

bool is_gated(Activation activation) { return activation >= Activation::kReglu; }

Activation gate_function(Activation activation) {
  const int plain = static_cast<int>(Activation::kReglu);
  return is_gated(activation) ? static_cast<Activation>(static_cast<int>(activation) - plain) : activation;
}

Activation parse_activation(const std::string& name) {
  const std::vector<std::string>& names = activation_names();
  const auto found = std::find(names.begin(), names.end(), name);
  // No require(), which would look for a name that is meant at every call.
  if (found == names.end()) throw UserError(concat("activation '", name, "' is not known", suggest(name, names)));
  return static_cast<Activation>(found - names.begin());
}

at::Tensor activate(const at::Tensor& x, Activation activation) {
  if (is_gated(activation)) {
    const int64_t width = x.size(-1) / 2;
    return activate(x.narrow(-1, 0, width), gate_function(activation)) * x.narrow(-1, width, width);
  }
  if (activation == Activation::kRelu) return at::relu(x);  // exact, whichever loop takes the element
  return ActivateFunction::apply(x, static_cast<int64_t>(activation));
}

at::Tensor activate_backward(const at::Tensor& gradient, const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::kRelu: return at::threshold_backward(gradient, x, 0);
    case Activation::kGelu: return at::gelu_backward(gradient, x);
    case Activation::kGeluTanh: return at::gelu_backward(gradient, x, "tanh");
    case Activation::kSilu: return at::silu_backward(gradient, x);
    default: throw Failure("activate_backward: a gated activation is no function of one element");
  }
}

}  // namespace smoe
