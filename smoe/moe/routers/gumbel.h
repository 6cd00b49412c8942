// Noise that makes a softmax a draw, and the temperature that takes it away.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "smoe/tensor/random_stream.h"

namespace smoe {

/// Standard Gumbel noise −ln(1e-10 − ln(u + 1e-10)), u uniform in [0, 1) from the stream, one number for each of `scores`
/// [T, C], of its dtype and on its device; row t depends on the stream and on t alone.
at::Tensor gumbel_like(const at::Tensor& scores, const RandomStream& random);

/// Throws UserError where the temperatures of moe.KIND do not fall, or stay, from `max_temperature` to `min_temperature`.
void check_cooling(const std::string& kind, double max_temperature, double min_temperature);

}  // namespace smoe
