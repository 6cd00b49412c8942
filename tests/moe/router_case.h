// What the tests of routers share: tokens, routers of every kind, and the values of their dials.
#pragma once

#include <torch/types.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "smoe/moe/router.h"
#include "smoe/tensor/random_stream.h"
#include "tests/moe/example_router.h"

namespace smoe::testing {

inline constexpr int64_t kRouterWidth = 12;

/// fp32 [count, kRouterWidth], Normal(0, 1).
inline at::Tensor router_tokens(int64_t count, uint64_t seed = 1) {
  at::Tensor x = torch::empty({count, kRouterWidth});
  RandomStream(seed).fill_normal(x, 0, 1);
  return x;
}

inline MoeConfig router_config(const std::string& kind, int64_t experts) {
  MoeConfig config;
  config.experts = experts;
  config.router = kind;
  config.router_init_std = 1;     // logits far apart, so that rounding changes no choice
  config.routers.rmoe.width = 5;  // finite differences go over every weight
  if (experts >= 4) config.null_experts = config.copy_experts = 1;  // most kinds do not care
  return config;
}

/// A kind of the table, or the example.
inline const RouterKind& router_kind(const std::string& name) {
  static const RouterKind kExample = cycle_kind();
  return name == kExample.name ? kExample : find_router_kind(name);
}

inline std::shared_ptr<Router> make_router(const MoeConfig& config, uint64_t seed = 9,
                                           const RouterPlace& place = kRouterWidth) {
  return router_kind(config.router).make(config, place, RandomStream(seed));
}

inline std::shared_ptr<Router> make_router(const std::string& kind, int64_t experts, uint64_t seed = 9) {
  return make_router(router_config(kind, experts), seed);
}

/// A value of a dial: k, or another dial's.
struct DialValue {
  ActiveK k = 1;
  std::optional<double> dial = {};
};

inline std::string text_of(const DialValue& value) {
  return value.dial ? "dial " + std::to_string(*value.dial) : "k " + std::to_string(value.k.uniform);
}

/// Values from one end of the kind's dial to the other; one where it has none. The last is all experts for every token
/// where the dial reaches that far.
inline std::vector<DialValue> dial_values(Dial dial, int64_t experts) {
  std::vector<DialValue> values;
  const auto E = static_cast<double>(experts);
  switch (dial) {
    case Dial::kNone: values.push_back({}); break;
    case Dial::kK:
      for (int64_t k = 1; k <= experts; ++k) values.push_back({.k = k});
      break;
    case Dial::kThreshold:
      for (const double threshold : {0.01, 0.3, 0.7, 0.95, 1.0}) values.push_back({.dial = threshold});
      break;
    case Dial::kCapacity:
      for (const double capacity : {0.1, 0.5, 1.0, E / 2, E}) values.push_back({.dial = std::min(capacity, E)});
      break;
    case Dial::kSamples:
      for (int64_t m = 1; m <= experts; ++m) values.push_back({.dial = static_cast<double>(m)});
      break;
  }
  return values;
}

/// The tokens with ids, positions and sequences of five tokens; in evaluation.
inline RouteInput router_input(const at::Tensor& x, const DialValue& value) {
  const at::Tensor place = torch::arange(x.size(0));
  RouteInput input;
  input.x = x;
  input.batch.token = (place * 7).remainder(31);
  input.batch.position = place.remainder(5);
  input.batch.sequence = place.div(5, "floor");
  input.k = value.k;
  input.dial = value.dial;
  input.random = RandomStream(5);
  return input;
}

/// Tokens first … first + count − 1 of an input.
inline RouteInput rows_of(RouteInput input, int64_t first, int64_t count) {
  for (at::Tensor* t :
       {&input.x, &input.batch.token, &input.batch.position, &input.batch.sequence, &input.batch.valid, &input.state}) {
    if (t->defined()) *t = t->narrow(0, first, count);
  }
  for (auto& [name, tag] : input.batch.tags) tag = tag.narrow(0, first, count);
  return input;
}

/// The weights by expert, [T, E].
inline at::Tensor dense_weights(const Routing& routing, int64_t experts) {
  const at::Tensor place = routing.expert.clamp_min(0).to(torch::kInt64);
  return torch::zeros({routing.expert.size(0), experts}, routing.weight.options())
      .scatter_add(1, place, routing.weight.masked_fill(routing.expert.lt(0), 0));
}

}  // namespace smoe::testing
