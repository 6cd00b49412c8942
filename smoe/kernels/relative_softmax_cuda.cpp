// Tensors taken apart for the CUDA kernels of relative_softmax, and its autograd.
#include "smoe/kernels/relative_softmax_cuda.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "smoe/kernels/cuda_launch.h"
#include "smoe/kernels/relative_softmax.h"
#include "smoe/tensor/once_differentiable.h"

namespace smoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class T>
RelativeSoftmaxArguments<T> arguments_for(const at::Tensor& probability, double scale, int64_t window) {
  RelativeSoftmaxArguments<T> out{};
  out.rows = probability.size(0) * probability.size(1);
  out.segment = probability.size(1);
  out.length = probability.size(2);
  out.window = window;
  out.scale = static_cast<Wide<T>>(scale);
  return out;
}

class RelativeSoftmax : public torch::autograd::Function<RelativeSoftmax> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& content, const at::Tensor& relative,
                            double scale, int64_t window) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor by_content = laid_out(content), by_place = laid_out(relative);
    const at::Tensor probability = at::empty_like(by_content);
    launch(by_content, [&]<class T>(T*) {
      auto arguments = arguments_for<T>(probability, scale, window);
      arguments.content = read<T>(by_content);
      arguments.relative = read<T>(by_place);
      arguments.probability = write<T>(probability);
      return launch_relative_softmax(arguments, stream());
    });
    context->save_for_backward({probability});
    context->saved_data["scale"] = scale;
    context->saved_data["window"] = window;
    return probability;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const at::Tensor probability = context->get_saved_variables()[0], gradient = laid_out(gradients[0]);
    const double scale = context->saved_data["scale"].toDouble();
    const int64_t window = context->saved_data["window"].toInt();
    const at::Tensor of_content = at::empty_like(probability), of_relative = at::empty_like(probability);
    launch(probability, [&]<class T>(T*) {
      auto arguments = arguments_for<T>(probability, scale, window);
      arguments.probability = const_cast<T*>(read<T>(probability));  // not written to on the way back
      arguments.of_probability = read<T>(gradient);
      arguments.of_content = write<T>(of_content);
      arguments.of_relative = write<T>(of_relative);
      return launch_relative_softmax_backward(arguments, stream());
    });
    return once_differentiable({of_content, of_relative, at::Tensor(), at::Tensor()}, {gradients[0], probability},
                               "attention");
  }
};

}  // namespace

at::Tensor relative_softmax(const at::Tensor& content, const at::Tensor& relative, double scale, int64_t window) {
  return RelativeSoftmax::apply(content, relative, scale, window);
}

}  // namespace smoe
