#include "smoe/moe/limit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "tests/base/temp_folder.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

Routing routing_of(const at::Tensor& expert) {
  Routing routing;
  routing.expert = expert.to(torch::kInt32);
  routing.weight = torch::linspace(0.1, 1, expert.numel()).view(expert.sizes()).masked_fill(expert.lt(0), 0);
  routing.state = torch::ones({expert.size(0), 2});
  return routing;
}

TEST(Limit, KeepsTheFirstByPosition) {
  const Routing routing = routing_of(torch::tensor({{0, 1}, {0, 2}, {1, 0}, {-1, 0}, {0, 1}}));
  const Limited limited = limit_by_position(routing, 4, 2);
  EXPECT_TRUE(torch::equal(limited.routing.expert,
                           torch::tensor({{0, 1}, {0, 2}, {1, -1}, {-1, -1}, {-1, -1}}, torch::kInt32)));
  EXPECT_TRUE(torch::equal(limited.dropped, torch::tensor({3, 1, 0, 0}, torch::kInt64)));
  // What stays keeps its weight, what goes has none: nothing is renormalised.
  EXPECT_TRUE(torch::equal(limited.routing.weight, routing.weight.masked_fill(limited.routing.expert.lt(0), 0)));
  EXPECT_TRUE(limited.routing.state.is_same(routing.state));
  // The router's own answer is not changed.
  EXPECT_EQ(routing.expert[4][0].item<int64_t>(), 0);
}

TEST(Limit, EveryExpertMayHaveACapacityOfItsOwn) {
  const Routing routing = routing_of(torch::tensor({{0, 1}, {0, 2}, {1, 0}, {-1, 0}, {0, 1}}));
  const Limited limited = limit(routing, {3, 0, 5}, DropPriority::kPosition);
  EXPECT_TRUE(torch::equal(limited.routing.expert,
                           torch::tensor({{0, -1}, {0, 2}, {-1, 0}, {-1, -1}, {-1, -1}}, torch::kInt32)));
  EXPECT_TRUE(torch::equal(limited.dropped, torch::tensor({2, 3, 0}, torch::kInt64)));
}

TEST(Limit, CapacitiesFollowShares) {
  // MoE++'s for 8 networks with tau = 0.75 and 4 others, gamma = 1.1, times k = 2.
  std::vector<double> shares(8, 0.75);
  shares.resize(12, 1.0);
  const std::vector<int64_t> capacities = capacities_of(1.1, 1000, 2, shares);
  for (size_t e = 0; e < 12; ++e) {
    EXPECT_EQ(capacities[e], static_cast<int64_t>(std::ceil(1.1 * 2000 * shares[e] / (0.75 * 8 + 4)))) << e;
  }
  EXPECT_NEAR(static_cast<double>(std::accumulate(capacities.begin(), capacities.end(), int64_t{0})), 1.1 * 2000, 12);
  for (const int64_t E : {1, 3, 7, 16}) {
    const std::vector<int64_t> even = capacities_of(1.25, 33, 2, std::vector<double>(static_cast<size_t>(E), 1.0));
    for (const int64_t capacity : even) EXPECT_EQ(capacity, capacity_of(1.25, 33, 2, E));
  }
}

TEST(Limit, SlotsOfATokenComeInTheirOrder) {
  const Limited limited = limit_by_position(routing_of(torch::tensor({{3, 1}, {1, 3}})), 4, 1);
  EXPECT_TRUE(torch::equal(limited.routing.expert, torch::tensor({{3, 1}, {-1, -1}}, torch::kInt32)));
}

TEST(Limit, FirstChoicesComeBeforeSecondOnes) {
  const Routing routing = routing_of(torch::tensor({{3, 1}, {1, 3}, {1, 0}}));
  const Limited limited = limit(routing, 4, 1, DropPriority::kChoice);
  EXPECT_TRUE(torch::equal(limited.routing.expert, torch::tensor({{3, -1}, {1, -1}, {-1, 0}}, torch::kInt32)));
  EXPECT_TRUE(torch::equal(limited.dropped, torch::tensor({0, 2, 0, 1}, torch::kInt64)));
}

TEST(Limit, TheLargestWeightsStay) {
  Routing routing = routing_of(torch::tensor({{0}, {0}, {0}, {0}, {1}}));
  routing.weight = torch::tensor({{0.2}, {0.9}, {0.9}, {0.4}, {0.1}});
  const auto kept = [&](int64_t capacity, const at::Tensor& valid = {}) {
    return limit(routing, 2, capacity, DropPriority::kScore, valid).routing.expert.squeeze(1).ge(0);
  };
  EXPECT_TRUE(torch::equal(kept(1), torch::tensor({false, true, false, false, true})));  // of equals the earlier one
  EXPECT_TRUE(torch::equal(kept(3), torch::tensor({false, true, true, true, true})));
  const at::Tensor valid = torch::tensor({true, false, true, true, true});
  EXPECT_TRUE(torch::equal(kept(2, valid), torch::tensor({false, false, true, true, true})));
  // A weight that is no number keeps the others in order.
  routing.weight[0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(torch::equal(kept(2), torch::tensor({false, true, true, false, true})));
}

TEST(Limit, PrioritiesHaveNames) {
  for (const std::string& name : drop_priority_names()) parse_drop_priority(name);
  EXPECT_EQ(parse_drop_priority("score"), DropPriority::kScore);
  EXPECT_NE(message_of([] { parse_drop_priority("scores"); }).find("did you mean 'score'?"), std::string::npos);
}

TEST(Limit, EveryPriorityKeepsAsMany) {
  at::Tensor scores = torch::empty({50, 6});
  RandomStream(1).fill_normal(scores, 0, 1);
  const auto [score, expert] = scores.topk(3, -1);
  Routing routing = routing_of(expert);
  routing.weight = torch::softmax(score, -1);
  for (const int64_t capacity : {0, 1, 7, 24, 50}) {
    const at::Tensor want = limit_by_position(routing, 6, capacity).dropped;
    for (const DropPriority priority : {DropPriority::kChoice, DropPriority::kScore}) {
      const Limited limited = limit(routing, 6, capacity, priority);
      EXPECT_TRUE(torch::equal(limited.dropped, want));
      EXPECT_TRUE(limited.routing.weight.masked_select(limited.routing.expert.lt(0)).eq(0).all().item<bool>());
      EXPECT_EQ(limited.routing.expert.ge(0).sum().item<int64_t>(), 150 - want.sum().item<int64_t>());
    }
  }
}

TEST(Limit, NegativeIsNoLimitAndZeroDropsAll) {
  const Routing routing = routing_of(torch::tensor({{0, 1}, {0, -1}}));
  const Limited none = limit_by_position(routing, 2, -1);
  EXPECT_TRUE(none.routing.expert.is_same(routing.expert));
  EXPECT_TRUE(none.routing.weight.is_same(routing.weight));
  EXPECT_TRUE(torch::equal(none.dropped, torch::zeros({2}, torch::kInt64)));
  const Limited all = limit_by_position(routing, 2, 0);
  EXPECT_TRUE(all.routing.expert.eq(-1).all().item<bool>());
  EXPECT_TRUE(all.routing.weight.eq(0).all().item<bool>());
  EXPECT_TRUE(torch::equal(all.dropped, torch::tensor({2, 1}, torch::kInt64)));
}

TEST(Limit, PaddingTakesNoPlaceAndIsNotDropped) {
  const Routing routing = routing_of(torch::tensor({{0}, {0}, {0}, {0}}));
  const at::Tensor valid = torch::tensor({false, true, false, true});
  const Limited limited = limit_by_position(routing, 1, 1, valid);
  EXPECT_TRUE(torch::equal(limited.routing.expert, torch::tensor({{-1}, {0}, {-1}, {-1}}, torch::kInt32)));
  EXPECT_TRUE(torch::equal(limited.dropped, torch::tensor({1}, torch::kInt64)));
  EXPECT_TRUE(limit_by_position(routing, 1, -1, valid).routing.expert.is_same(routing.expert));
}

TEST(Limit, TheGradientOfWhatGoesIsZero) {
  Routing routing = routing_of(torch::tensor({{0, 1}, {0, 1}}));
  routing.weight = routing.weight.detach().requires_grad_();
  const Limited limited = limit_by_position(routing, 2, 1);
  limited.routing.weight.sum().backward();
  EXPECT_TRUE(torch::equal(routing.weight.grad(), torch::tensor({{1.0f, 1.0f}, {0.0f, 0.0f}})));
}

TEST(Limit, CountsOfRandomRoutings) {
  std::mt19937_64 random(4);
  for (int i = 0; i < 200; ++i) {
    testing::MixtureCase c = testing::random_case(random);
    const int64_t E = c.experts(), capacity = static_cast<int64_t>(random() % 12);
    const at::Tensor ids = c.expert.masked_fill(c.expert.lt(0).logical_or(c.expert.ge(E)), -1);
    const Limited limited = limit_by_position(routing_of(ids), E, capacity);
    for (int64_t e = 0; e < E; ++e) {
      const int64_t asked = ids.eq(e).sum().item<int64_t>(), kept = limited.routing.expert.eq(e).sum().item<int64_t>();
      ASSERT_EQ(kept, std::min(asked, capacity)) << c.describe();
      ASSERT_EQ(limited.dropped[e].item<int64_t>(), asked - kept) << c.describe();
    }
  }
}

TEST(Limit, CapacityIsAShareRoundedUp) {
  EXPECT_EQ(capacity_of(0, 100, 2, 4), -1);
  EXPECT_EQ(capacity_of(1, 100, 2, 4), 50);
  EXPECT_EQ(capacity_of(1.25, 100, 2, 4), 63);
  EXPECT_EQ(capacity_of(1, 10, 1, 3), 4);
  EXPECT_EQ(capacity_of(0.001, 10, 1, 3), 1);
  EXPECT_EQ(capacity_of(1, 0, 1, 3), 0);
  EXPECT_EQ(capacity_of(100, 8, 2, 4), 400);
}

}  // namespace
}  // namespace smoe
