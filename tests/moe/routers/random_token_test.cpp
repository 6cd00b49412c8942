#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::make_router;
using testing::router_config;
using testing::router_input;
using testing::router_tokens;

TEST(RandomToken, IsUniform) {
  const auto router = make_router("random_token", 5);
  const int64_t T = 20000;
  const Routing routing = router->route(router_input(router_tokens(T), {.k = 2}));
  const at::Tensor count = routing.expert.to(torch::kInt64).flatten().bincount({}, 5).to(torch::kFloat64);
  // Chi-square with four degrees of freedom; 23.5 is exceeded once in ten thousand.
  const double even = T * 2 / 5.0;
  EXPECT_LT(((count - even).square() / even).sum().item<double>(), 23.5);
}

TEST(RandomToken, KnowsNothingOfItsInput) {
  const auto router = make_router("random_token", 5);
  const Routing one = router->route(router_input(router_tokens(30), {.k = 2}));
  EXPECT_TRUE(torch::equal(one.expert, router->route(router_input(router_tokens(30, 8) * 9, {.k = 2})).expert));
  EXPECT_TRUE(router->parameters().empty());
  EXPECT_TRUE(one.weight.eq(0.5).all().item<bool>());
}

TEST(RandomToken, ThePublishedWeightsAreASoftmaxOfTheDraws) {
  MoeConfig config = router_config("random_token", 5);
  config.routers.random_token.weight = "softmax";
  const Routing routing = make_router(config)->route(router_input(router_tokens(200), {.k = 3}));
  EXPECT_TRUE(torch::allclose(routing.weight.sum(-1), torch::ones({200}), 0, 1e-5));
  // Draws lie in [0, 1), so that no weight is more than e times another; and they fall.
  EXPECT_TRUE((routing.weight.select(1, 0) / routing.weight.select(1, 2)).lt(2.7183).all().item<bool>());
  EXPECT_TRUE(routing.weight.select(1, 0).gt(routing.weight.select(1, 2)).all().item<bool>());
}

}  // namespace
}  // namespace smoe
