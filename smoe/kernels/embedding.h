// Rows of a table by token.
#pragma once

#include <ATen/core/Tensor.h>

namespace smoe {

/// out [.., D] = scale · table[token], table [V, D], token int64 [..], with autograd. The gradient of a row is summed up
/// over its tokens in their order, whatever the number of threads. Throws UserError for a token outside [0, V).
at::Tensor embed(const at::Tensor& table, const at::Tensor& token, double scale);

}  // namespace smoe
