#include "smoe/tensor/once_differentiable.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <iterator>
#include <string>

namespace smoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// The gradients as they are, and as if they had come from `from` by a function without a derivative.
class Once : public torch::autograd::Function<Once> {
 public:
  static variable_list forward(AutogradContext* context, at::TensorList gradients, at::TensorList /*from*/,
                               const std::string& what) {
    context->saved_data["what"] = what;
    variable_list out;
    for (const at::Tensor& each : gradients) out.push_back(each.detach());
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& /*gradients*/) {
    TORCH_CHECK(false, "a second derivative of ", context->saved_data["what"].toStringRef(), " is not implemented");
  }
};

variable_list defined_ones(const variable_list& all) {
  variable_list out;
  std::copy_if(all.begin(), all.end(), std::back_inserter(out), [](const at::Tensor& t) { return t.defined(); });
  return out;
}

}  // namespace

variable_list once_differentiable(variable_list gradients, const variable_list& from, const char* what) {
  if (!at::GradMode::is_enabled()) return gradients;
  // As TensorList: of vectors apply() sees no tensors.
  const variable_list own = defined_ones(gradients), sources = defined_ones(from);
  const variable_list marked = Once::apply(at::TensorList(own), at::TensorList(sources), std::string(what));
  auto next = marked.begin();
  for (at::Tensor& each : gradients) {
    if (each.defined()) each = *next++;
  }
  return gradients;
}

}  // namespace smoe
