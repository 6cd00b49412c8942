#include "smoe/moe/stats_book.h"
#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::expect_golden;
using testing::golden_router;
using testing::golden_tokens;
using testing::make_router;
using testing::router_config;
using testing::router_input;
using testing::router_tokens;

MoeConfig learned(const std::string& score, bool renormalize = false) {
  MoeConfig config = router_config("learned", 6);
  config.routers.learned = {.score = score, .renormalize = renormalize};
  return config;
}

Routing route(const MoeConfig& config, int64_t k) {
  return golden_router(config)->route(router_input(golden_tokens(), {.k = k}));
}

LayerStats counts_of(const std::vector<double>& counts) {
  LayerStats stats;
  stats.count = torch::tensor(counts, torch::kFloat64);
  return stats;
}

TEST(Learned, WeighsAsItsPapersDo) {
  expect_golden(route(learned("selected_softmax"), 2), golden::kSelectedSoftmax2);
  expect_golden(route(learned("softmax"), 2), golden::kSoftmax2);
  expect_golden(route(learned("softmax", true), 3), golden::kSoftmaxRenormalized3);
  expect_golden(route(learned("sigmoid"), 2), golden::kSigmoid2);
  expect_golden(route(learned("sigmoid", true), 2), golden::kSigmoidRenormalized2);
}

TEST(Learned, TheTwoOrdersAgreeWhereWeightsAreRenormalized) {
  const at::Tensor first = route(learned("selected_softmax"), 3).weight,
                   last = route(learned("softmax", true), 3).weight;
  EXPECT_TRUE(torch::allclose(first, last, 1e-12, 1e-12));
  EXPECT_FALSE(torch::allclose(first, route(learned("softmax"), 3).weight, 1e-3, 1e-3));
}

TEST(Learned, AtOneExpertOnlyASoftmaxOverAllLearnsFromTheTask) {
  for (const std::string score : {"selected_softmax", "softmax", "sigmoid"}) {
    const auto router = golden_router(learned(score));
    router->route(router_input(golden_tokens(), {.k = 1})).weight.sum().backward();
    const double size = router->named_parameters()["weight"].grad().abs().sum().item<double>();
    EXPECT_EQ(size > 1e-6, score != "selected_softmax") << score;
  }
}

TEST(Learned, JitterIsInTrainingAndFromTheStream) {
  MoeConfig config = router_config("learned", 6);
  config.routers.learned.jitter = 0.3;
  const auto router = make_router(config);
  RouteInput input = router_input(router_tokens(40), {.k = 2});
  const at::Tensor still = router->route(input).logits.value;
  const auto weights = router->named_parameters();
  EXPECT_TRUE(torch::allclose(still, torch::linear(input.x, weights["weight"]), 1e-5, 1e-5));
  input.training = true;
  const at::Tensor shaken = router->route(input).logits.value;
  EXPECT_FALSE(torch::allclose(shaken, still, 1e-3, 1e-3));
  EXPECT_TRUE(torch::equal(shaken, router->route(input).logits.value));
  input.random = RandomStream(77);
  EXPECT_FALSE(torch::equal(shaken, router->route(input).logits.value));
  // No number is further than the jitter from 1: tokens of ones show it.
  input.x = torch::ones({2000, testing::kRouterWidth});
  const at::Tensor spread = router->route(input).logits.value - torch::linear(input.x, weights["weight"]);
  const at::Tensor furthest = weights["weight"].abs().sum(1) * 0.3;
  EXPECT_TRUE(spread.abs().le(furthest + 1e-5).all().item<bool>());
  EXPECT_GT(spread.std().item<double>(), 0.1);
}

TEST(Learned, TheBiasMovesTowardsTheMeanAndChoosesOnly) {
  MoeConfig config = learned("sigmoid");
  config.routers.learned.bias_rate = 0.1;
  const auto router = golden_router(config);
  EXPECT_TRUE(router->wants_statistics());
  const RouteInput input = router_input(golden_tokens(), {.k = 2});
  for (int i = 0; i < 3; ++i) {
    StatsBook book(StatsBook::Detail::kCounts);
    book.record(0, router->route(input), 6, torch::zeros({6}, torch::kInt64), {});
    router->after_update(book.layers()[0]);
  }
  const at::Tensor bias = router->named_parameters()["selection_bias"];
  for (int64_t e = 0; e < 6; ++e) EXPECT_NEAR(bias[e].item<double>(), golden::kBiases[e], 1e-12) << e;
  expect_golden(router->route(input), golden::kBiased);
  EXPECT_FALSE(bias.requires_grad());
}

TEST(Learned, TheBiasEvensTheLoadOut) {
  MoeConfig config = router_config("learned", 8);
  config.routers.learned = {.score = "sigmoid", .renormalize = true, .bias_rate = 0.02};
  const auto router = make_router(config);
  const RouteInput input = router_input(router_tokens(400) + 0.7, {.k = 2});  // tokens that share a direction
  const auto most_over_mean = [&] {
    StatsBook book(StatsBook::Detail::kCounts);
    book.record(0, router->route(input), 8, torch::zeros({8}, torch::kInt64), {});
    const LayerStats stats = book.layers()[0];
    router->after_update(stats);
    return (stats.count.max() / stats.count.mean()).item<double>();
  };
  const double before = most_over_mean();
  for (int i = 0; i < 200; ++i) most_over_mean();
  EXPECT_GT(before, 1.5);
  EXPECT_LT(most_over_mean(), 1.1);
}

TEST(Learned, WithoutARateThereIsNoBias) {
  const auto router = make_router("learned", 4);
  EXPECT_FALSE(router->wants_statistics());
  EXPECT_EQ(router->parameters().size(), 1u);
  router->after_update(counts_of({1, 2, 3, 4}));  // does nothing
  EXPECT_EQ(router->parameters().size(), 1u);
}

TEST(Learned, AnExpertAtTheMeanKeepsItsBias) {
  MoeConfig config = router_config("learned", 4);
  config.routers.learned.bias_rate = 0.5;
  const auto router = make_router(config);
  router->after_update(counts_of({5, 5, 0, 10}));
  router->after_update(counts_of({0, 0, 0, 0}));  // a step without tokens
  EXPECT_TRUE(torch::equal(router->named_parameters()["selection_bias"], torch::tensor({0.0F, 0.0F, 0.5F, -0.5F})));
}

}  // namespace
}  // namespace smoe
