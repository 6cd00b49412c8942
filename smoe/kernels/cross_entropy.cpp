#include "smoe/kernels/cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "smoe/base/error.h"
#include "smoe/tensor/profiled_part.h"

namespace smoe {
namespace {

class CrossEntropy : public torch::autograd::Function<CrossEntropy> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& logits,
                            const at::Tensor& target) {
    const at::Tensor place = target.unsqueeze(1), log_sum = at::logsumexp(logits, 1, /*keepdim=*/true);
    context->save_for_backward({logits, place, log_sum});
    return (log_sum - logits.gather(1, place)).mean();
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const at::Tensor &logits = saved[0], &place = saved[1], &log_sum = saved[2];
    const at::Tensor share = gradients[0] / static_cast<double>(logits.size(0));
    if (at::GradMode::is_enabled()) {  // somebody wants a second derivative, which goes through the sum too
      const at::Tensor chosen = at::zeros_like(logits).scatter_(1, place, 1);
      return {(at::softmax(logits, 1) - chosen) * share, at::Tensor()};
    }
    at::Tensor gradient = at::sub(logits, log_sum).exp_();
    gradient.scatter_add_(1, place, at::full_like(log_sum, -1));
    gradient.mul_(share);
    return {gradient, at::Tensor()};
  }
};

}  // namespace

at::Tensor mean_cross_entropy(const at::Tensor& logits, const at::Tensor& target) {
  const ProfiledPart part("smoe.loss");
  require(logits.dim() == 2 && target.dim() == 1 && target.size(0) == logits.size(0),
          "cross entropy: logits must be [T, V] and target [T], got ", logits.sizes(), " and ", target.sizes());
  return CrossEntropy::apply(logits, target);
}

}  // namespace smoe
