// Small traces of routing for tests.
#pragma once

#include <initializer_list>
#include <utility>

#include "smoe/plan/types.h"

namespace smoe::testing {

/// A layer of `experts` networks with that many slots a token, all that was assigned kept.
inline TraceLayer trace_layer(int64_t layer, int64_t experts, int64_t slots, std::vector<int32_t> expert) {
  TraceLayer made{
      .layer = layer, .slots = slots, .expert = std::move(expert), .kept = {}, .network = {}, .similarity = {}};
  for (const int32_t id : made.expert) made.kept.push_back(id >= 0 ? 1 : 0);
  made.network.assign(static_cast<size_t>(experts), 1);
  return made;
}

/// A trace of those tokens, one forward of one row; the ids 0, 1, 2, 3 are "a", "7", " " and a byte that is not ASCII.
inline RoutingTrace small_trace(std::vector<int32_t> token, std::vector<TraceLayer> layers) {
  RoutingTrace trace{.model = "m",
                     .setting = "k = 1",
                     .step = 5,
                     .token = std::move(token),
                     .call = {},
                     .sequence = {},
                     .position = {},
                     .byte = {'a', '7', ' ', 0xC3},
                     .layers = std::move(layers)};
  for (int32_t i = 0; i < trace.tokens(); ++i) {
    trace.call.push_back(0);
    trace.sequence.push_back(0);
    trace.position.push_back(i);
  }
  return trace;
}

}  // namespace smoe::testing
