// smoe bench decode: calls of a few tokens, beside reading their weights.
#pragma once

#include <cstdint>

#include <nlohmann/json_fwd.hpp>

#include "bench/layer.h"

namespace smoe::bench {

/// Inference calls of shape.T tokens, each with experts drawn anew, beside reads of as many bytes as the weights that
/// they need, out of a buffer as large as those of all experts. So both find the weights where such a set of experts
/// lives: in a cache, or in memory. The fields are in docs/bench.md.
nlohmann::ordered_json measure_decode(const LayerShape& shape, const LayerOptions& options);

}  // namespace smoe::bench
