// smoe bench layer: the time of one mixture, forward and with backward, beside what the processor can do.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "bench/layer_case.h"

namespace smoe::bench {

struct LayerOptions {
  at::ScalarType type = at::kFloat;
  Activation activation = Activation::kRelu;
  Spread spread = Spread::kBalanced;
  int64_t repeat = 15;
  at::Device device = at::kCPU;
};

/// Measures one shape on the threads that LibTorch has, or on a GPU: `repeat` rounds of the peak (of a CPU the
/// microkernel's), an inference call whose weights are packed already, and a training call (forward and backward) that
/// packs them anew, since a training step has changed them. The fields are in docs/bench.md.
nlohmann::ordered_json measure_layer(const LayerShape& shape, const LayerOptions& options);

}  // namespace smoe::bench
