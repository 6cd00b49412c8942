#include <gtest/gtest.h>

#include "tests/moe/router_case.h"

namespace smoe {
namespace {

using testing::make_router;
using testing::router_config;
using testing::router_input;
using testing::router_tokens;

TEST(RandomFrozen, IsDrawnOnceWithZeroBias) {
  MoeConfig config = router_config("random_frozen", 64);
  config.router_init_std = 0.02;
  const auto router = find_router_kind("random_frozen").make(config, 256, RandomStream(3).at("layers.0"));
  const auto parameters = router->named_parameters();
  const at::Tensor weight = parameters["weight"], bias = parameters["bias"];
  ASSERT_EQ(weight.sizes(), at::IntArrayRef({64, 256}));
  EXPECT_NEAR(weight.std().item<double>(), 0.02, 0.0005);  // σ of the estimate 1.1e-4
  EXPECT_NEAR(weight.mean().item<double>(), 0, 0.001);
  EXPECT_TRUE(bias.eq(0).all().item<bool>());
  EXPECT_FALSE(weight.requires_grad() || bias.requires_grad());
  EXPECT_EQ(router->flops_per_token(), 2 * 64 * 256);
  const auto other = find_router_kind("random_frozen").make(config, 256, RandomStream(3).at("layers.1"));
  EXPECT_FALSE(torch::equal(weight, other->named_parameters()["weight"]));
}

TEST(RandomFrozen, WeighsTheSelectedAndOnlyThem) {
  const auto router = make_router("random_frozen", 6);
  const auto parameters = router->named_parameters();
  const at::Tensor x = router_tokens(50), logits = torch::linear(x, parameters["weight"], parameters["bias"]);
  for (int64_t k = 1; k <= 6; ++k) {
    const Routing routing = router->route(router_input(x, {.k = k}));
    EXPECT_TRUE(torch::allclose(routing.logits.value, logits, 1e-5, 1e-5));
    EXPECT_TRUE(torch::allclose(routing.probabilities.value, torch::softmax(logits, -1), 1e-5, 1e-6));
    const at::Tensor chosen = logits.gather(1, routing.expert.to(torch::kInt64));
    EXPECT_TRUE(torch::allclose(routing.weight, torch::softmax(chosen, -1), 1e-5, 1e-6)) << k;
    EXPECT_TRUE(torch::allclose(routing.weight.sum(-1), torch::ones({50}), 0, 1e-6)) << k;
    EXPECT_FALSE(routing.state.defined());
  }
  EXPECT_TRUE(torch::equal(router->route(router_input(x, {.k = 1})).weight, torch::ones({50, 1})));
  // With every expert on, the weights are the softmax over all of them.
  const Routing all = router->route(router_input(x, {.k = 6}));
  const at::Tensor dense = torch::zeros({50, 6}).scatter(1, all.expert.to(torch::kInt64), all.weight);
  EXPECT_TRUE(torch::allclose(dense, torch::softmax(logits, -1), 1e-5, 1e-6));
}

TEST(RandomFrozen, TheGradientReachesItsInputAndNotItself) {
  const auto router = make_router("random_frozen", 6);
  const at::Tensor x = router_tokens(10).requires_grad_();
  const at::Tensor v = torch::arange(20).view({10, 2}).to(torch::kFloat32);
  (router->route(router_input(x, {.k = 2})).weight * v).sum().backward();
  EXPECT_GT(x.grad().abs().sum().item<double>(), 0.1);
  for (const at::Tensor& parameter : router->parameters()) EXPECT_FALSE(parameter.grad().defined());
  // At k = 1 the weight is the constant 1.
  const at::Tensor alone = router_tokens(10).requires_grad_();
  router->route(router_input(alone, {.k = 1})).weight.sum().backward();
  EXPECT_TRUE(alone.grad().eq(0).all().item<bool>());
}

}  // namespace
}  // namespace smoe
