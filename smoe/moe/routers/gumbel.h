// Noise that makes a softmax a draw.
#pragma once

#include <ATen/core/Tensor.h>

#include "smoe/tensor/random_stream.h"

namespace smoe {

/// Standard Gumbel noise −ln(1e-10 − ln(u + 1e-10)), u uniform in [0, 1) from the stream, one number for each of `scores`
/// [T, C], of its dtype and on its device; row t depends on the stream and on t alone.
at::Tensor gumbel_like(const at::Tensor& scores, const RandomStream& random);

}  // namespace smoe
