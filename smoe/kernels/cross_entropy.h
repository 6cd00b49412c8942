// The loss of a language model.
#pragma once

#include <ATen/core/Tensor.h>

namespace smoe {

/// The mean over rows of −log softmax(logits)[target], in nats: logits [T, V] (fp32 or fp64), target int64 [T] → [].
/// With autograd; keeps the logits and a number a row, and its gradient is the one tensor [T, V] that backward makes. No
/// rows: NaN.
at::Tensor mean_cross_entropy(const at::Tensor& logits, const at::Tensor& target);

}  // namespace smoe
