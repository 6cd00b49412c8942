// Activation functions of feed-forward networks.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace smoe {

/// A gated one takes twice the width that it gives, gates first: reglu of [g, u] is relu(g) · u, geglu gelu(g) · u,
/// geglu_tanh gelu_tanh(g) · u, swiglu silu(g) · u (Shazeer, "GLU Variants Improve Transformer", 2020).
enum class Activation { kRelu, kGelu, kGeluTanh, kSilu, kReglu, kGeglu, kGegluTanh, kSwiglu };

/// The names that recipes use: relu, gelu, gelu_tanh, silu, reglu, geglu, geglu_tanh, swiglu.
const std::vector<std::string>& activation_names();

/// Whether the activation is gated, and the function of its gate; an activation that is not gated is its own.
bool is_gated(Activation activation);
Activation gate_function(Activation activation);

/// Throws UserError with the nearest name for one that is not known.
Activation parse_activation(const std::string& name);

/// The function applied to each element, with autograd; a gated one takes x [.., 2 H] to [.., H]. An element's bits depend
/// on its value (and its gate's) alone.
at::Tensor activate(const at::Tensor& x, Activation activation);

/// The gradient of the input `x` of activate(), given that of its output; for activations that are not gated.
at::Tensor activate_backward(const at::Tensor& gradient, const at::Tensor& x, Activation activation);

}  // namespace smoe
