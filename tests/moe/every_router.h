// A test of every kind of router in the table, and what its statistics and losses say.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "smoe/moe/losses.h"
#include "tests/moe/router_case.h"

namespace smoe::testing {

/// The statistics and losses of one routing.
struct Told {
  LayerStats stats;
  std::vector<NamedLoss> losses;
};

inline Told told(const Routing& routing, int64_t experts, const at::Tensor& valid, const LossConfig& config) {
  StatsBook book(StatsBook::Detail::kTerms);
  book.record(0, routing, experts, torch::zeros({experts}, torch::kInt64), valid);
  return {book.layers()[0], auxiliary_losses(book, config)};
}

inline void expect_same(const Told& a, const Told& b) {
  EXPECT_TRUE(torch::equal(a.stats.count, b.stats.count));
  EXPECT_TRUE(torch::allclose(a.stats.probability, b.stats.probability, 1e-6, 1e-6));
  EXPECT_NEAR(a.stats.entropy, b.stats.entropy, 1e-4);
  EXPECT_NEAR(a.stats.logsumexp_sq, b.stats.logsumexp_sq, 1e-3);
  EXPECT_EQ(a.stats.tokens, b.stats.tokens);
  ASSERT_EQ(a.losses.size(), b.losses.size());
  for (size_t i = 0; i < a.losses.size(); ++i) {
    EXPECT_EQ(a.losses[i].name, b.losses[i].name);
    EXPECT_NEAR(a.losses[i].value.item<double>(), b.losses[i].value.item<double>(), 1e-5) << a.losses[i].name;
  }
}

class EveryRouter : public ::testing::TestWithParam<std::string> {
 protected:
  const RouterKind& kind() const { return router_kind(GetParam()); }
  const RouterTraits& traits() const { return kind().traits; }
  bool dial_is_k() const { return traits().dial == Dial::kK; }
  /// A router that is not in the lowest mixture.
  std::shared_ptr<Router> router(int64_t experts, uint64_t seed = 9) const {
    return make_router(router_config(GetParam(), experts), seed, RouterPlace(kRouterWidth, /*mixtures_below=*/1));
  }
  /// router_input, with what a router of the mixture below made of other tokens and with the families of the tokens'
  /// languages, where the kind goes by that.
  RouteInput input_of(const at::Tensor& x, const DialValue& value, int64_t experts) const {
    RouteInput input = router_input(x, value);
    if (traits().families) {
      input.batch.tags[kFamilyTag] = torch::arange(x.size(0)).remainder(experts + 1) - 1;  // −1: of none
    }
    if (!traits().state) return input;
    const auto below = make_router(router_config(GetParam(), experts), 17, RouterPlace(kRouterWidth, 0));
    below->to(x.scalar_type());
    const at::Tensor others = router_tokens(x.size(0), 23).to(x.scalar_type());
    input.state = below->route(router_input(others, some_value(experts))).state.detach();
    return input;
  }
  /// A value inside the dial's range.
  DialValue some_value(int64_t experts) const {
    const std::vector<DialValue> values = dial_values(traits().dial, experts);
    return values[values.size() / 2];
  }
  /// All losses where the kind has what they need.
  LossConfig losses() const {
    return traits().scores ? LossConfig{.balance = 1, .z = 1, .entropy = 1, .device_balance = 1} : LossConfig{};
  }
};

inline auto every_router() {
  std::vector<std::string> names;
  for (const RouterKind& kind : router_kinds()) names.push_back(kind.name);
  names.push_back(cycle_kind().name);
  return ::testing::ValuesIn(names);
}

inline std::string router_name(const ::testing::TestParamInfo<std::string>& kind) { return kind.param; }

}  // namespace smoe::testing
