#include "smoe/moe/select.h"
#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::make_router;
using testing::router_config;
using testing::router_input;
using testing::router_tokens;

TEST(TopP, TakesExpertsUntilTheyReachTheThreshold) {
  const auto router = testing::golden_router(router_config("top_p", 6));
  const auto at = [&](double threshold) {
    return router->route(router_input(testing::golden_tokens(), {.dial = threshold}));
  };
  testing::expect_golden(at(0.5), golden::kTopP50);
  testing::expect_golden(at(0.8), golden::kTopP80);
  testing::expect_golden(at(1), golden::kTopP100);
}

TEST(TopP, TheFewestThatReachIt) {
  const auto router = make_router("top_p", 8);
  for (const double threshold : {0.2, 0.4, 0.75, 0.99}) {
    const Routing routing = router->route(router_input(router_tokens(60), {.dial = threshold}));
    const at::Tensor sum = routing.weight.sum(-1),
                     smallest = routing.weight.masked_fill(routing.expert.lt(0), 2).amin(-1);
    EXPECT_TRUE(sum.ge(threshold - 1e-6).all().item<bool>()) << threshold;
    EXPECT_TRUE((sum - smallest).lt(threshold + 1e-6).all().item<bool>()) << threshold;
  }
}

TEST(TopP, ATinyThresholdIsTopOneAndOneIsEveryExpert) {
  const auto router = make_router("top_p", 8);
  const Routing tiny = router->route(router_input(router_tokens(60), {.dial = 1e-9}));
  EXPECT_EQ(tiny.expert.size(1), 1);
  EXPECT_TRUE(torch::equal(tiny.weight.squeeze(1), std::get<0>(tiny.probabilities.value.max(-1))));
  // Sums that round to 1 early must not end the list: here the first probability is 1 to the last bit.
  const Probabilities sure = {torch::tensor({{1.0F, 1e-20F, 0.0F, 1e-30F}})};
  EXPECT_EQ(select_top_p(sure, 1).expert.ge(0).sum().item<int64_t>(), 4);
  EXPECT_EQ(select_top_p(sure, 0.999).expert.ge(0).sum().item<int64_t>(), 1);
}

TEST(TopP, SurerTokensTakeNoMoreExperts) {
  const auto count = [](double scale) {
    const at::Tensor logits = router_tokens(200) * scale;
    return select_top_p(softmax_over_all({logits}), 0.6).expert.ge(0).sum(-1);
  };
  at::Tensor before = count(0.2);
  for (const double scale : {0.5, 1.0, 2.0, 5.0}) {
    const at::Tensor now = count(scale);
    EXPECT_TRUE(now.le(before).all().item<bool>()) << scale;
    before = now;
  }
  EXPECT_EQ(count(1000).max().item<int64_t>(), 1);
}

TEST(TopP, WithoutADialTheSettingHolds) {
  MoeConfig config = router_config("top_p", 6);
  config.routers.top_p.threshold = 0.9;
  const auto router = make_router(config);
  const Routing set = router->route(router_input(router_tokens(20), {}));
  EXPECT_TRUE(torch::equal(set.expert, router->route(router_input(router_tokens(20), {.dial = 0.9})).expert));
  EXPECT_FALSE(torch::equal(set.expert, router->route(router_input(router_tokens(20), {.dial = 0.1})).expert));
}

TEST(TopP, NotANumberIsNoTrouble) {
  at::Tensor p = torch::full({3, 4}, 0.25);
  p[1].fill_(std::numeric_limits<float>::quiet_NaN());
  const Selection selection = select_top_p({p}, 0.5);
  EXPECT_EQ(selection.expert[0].ge(0).sum().item<int64_t>(), 2);
  EXPECT_GE(selection.expert[1].ge(0).sum().item<int64_t>(), 1);
}

}  // namespace
}  // namespace smoe
