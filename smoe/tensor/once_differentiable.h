// Backward passes that work on memory and that autograd cannot look into.
#pragma once

#include <torch/csrc/autograd/variable.h>

namespace smoe {

/// The gradients that the backward pass of `what` made of the tensors `from`. Where a graph of it is being made
/// (create_graph), differentiating them by these throws: autograd did not see where they came from, and would take them
/// for constants.
torch::autograd::variable_list once_differentiable(torch::autograd::variable_list gradients,
                                                   const torch::autograd::variable_list& from, const char* what);

}  // namespace smoe
