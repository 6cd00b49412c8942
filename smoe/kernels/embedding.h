// Rows of a table by token.
#pragma once

#include <ATen/core/Tensor.h>

namespace smoe {

/// out [.., D] = scale · table[token], table [V, D], token int64 [..], with autograd. On a CPU in fp32 and fp64 the gradient
/// of a row is summed up over its tokens in their order, whatever the number of threads, and a token outside [0, V) is a
/// UserError; elsewhere it is LibTorch's embedding, with its errors and order.
at::Tensor embed(const at::Tensor& table, const at::Tensor& token, double scale);

}  // namespace smoe
