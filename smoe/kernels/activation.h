// Activation functions of feed-forward networks.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace smoe {

enum class Activation { kRelu, kGelu, kGeluTanh, kSilu };

/// The names that recipes use: relu, gelu, gelu_tanh, silu.
const std::vector<std::string>& activation_names();

/// Throws UserError with the nearest name for one that is not known.
Activation parse_activation(const std::string& name);

/// The function applied to each element, with autograd. An element's bits depend on its value alone.
at::Tensor activate(const at::Tensor& x, Activation activation);

/// The gradient of the input `x` of activate(), given that of its output.
at::Tensor activate_backward(const at::Tensor& gradient, const at::Tensor& x, Activation activation);

}  // namespace smoe
