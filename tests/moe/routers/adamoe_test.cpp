#include "smoe/moe/moe_layer.h"
#include "tests/kernels/mixture_case.h"
#include "tests/moe/routers/class_load.h"

namespace smoe {
namespace {

using testing::make_router;
using testing::networks_at_balance;
using testing::router_input;
using testing::router_tokens;
using testing::same_bits;

MoeConfig config_of(int64_t networks, int64_t nulls, int64_t copies = 0) {
  MoeConfig config = testing::router_config("adamoe", networks + nulls + copies);
  config.null_experts = nulls;
  config.copy_experts = copies;
  return config;
}

TEST(Adamoe, WeighsAllButNullExperts) {
  const auto router = testing::golden_router(config_of(3, 2, 1));
  RouteInput input = router_input(testing::golden_tokens(), {.k = 2});
  const Routing routing = router->route(input);
  testing::expect_golden(routing, golden::kAdamoe2);
  EXPECT_TRUE(routing.expert.ge(0).all().item<bool>()) << "null experts are assignments like others";
  input.k = 4;
  testing::expect_golden(router->route(input), golden::kAdamoe4);
  input.k = 3;
  input.training = true;
  const Term term = router->route(input).terms.at("adamoe.balance");
  EXPECT_NEAR(term.value.item<double>(), golden::kAdamoe3Balance[0], 1e-12);
}

TEST(Adamoe, WeightsSumToOneOrToNothing) {
  const auto router = make_router(config_of(4, 8));
  const Routing routing = router->route(router_input(router_tokens(300), {.k = 3}));
  const at::Tensor sum = routing.weight.sum(-1), networks = routing.expert.lt(4).sum(-1);
  EXPECT_TRUE(torch::allclose(sum, networks.gt(0).to(torch::kFloat32), 0, 1e-6));
  EXPECT_TRUE(networks.eq(0).any().item<bool>() && networks.gt(1).any().item<bool>());
  MoeConfig config = config_of(4, 8);
  config.routers.adamoe.weigh_null = true;
  const Routing over_all = make_router(config)->route(router_input(router_tokens(300), {.k = 3}));
  EXPECT_TRUE(torch::allclose(over_all.weight.sum(-1), torch::ones({300}), 0, 1e-6));
  EXPECT_TRUE(torch::equal(over_all.expert, routing.expert));
}

TEST(Adamoe, WithoutNullExpertsItIsTopK) {
  const MoeConfig config = config_of(6, 0);
  MoeConfig plain = config;
  plain.router = "learned";
  for (const int64_t k : {1, 3, 6}) {
    const RouteInput input = router_input(router_tokens(40), {.k = k});
    const Routing want = make_router(plain)->route(input), got = make_router(config)->route(input);
    EXPECT_TRUE(same_bits(want.expert, got.expert));
    EXPECT_TRUE(same_bits(want.weight, got.weight));
  }
}

TEST(Adamoe, TheLossDoesNotCareWhichNullExpertTakesATokens) {
  // Two columns of W that are null experts' change places: the load moves between the two.
  const auto router = make_router(config_of(3, 3));
  RouteInput input = router_input(router_tokens(100), {.k = 2});
  input.training = true;
  const torch::NoGradGuard no_grad;
  const at::Tensor weight = router->named_parameters()["weight"];
  weight.narrow(0, 3, 3).copy_(weight[3].clone().expand({3, -1}));
  weight[4] *= 1.001;  // the three have nearly the same probabilities, and one of them all the load
  const Routing before = router->route(input);
  weight.copy_(weight.index_select(0, torch::tensor({0, 1, 2, 4, 3, 5})));
  const Routing after = router->route(input);
  const auto load = [](const Routing& routing, int64_t e) { return routing.expert.eq(e).sum().item<int64_t>(); };
  ASSERT_NE(load(before, 3), load(after, 3));
  EXPECT_NEAR(before.terms.at("adamoe.balance").value.item<double>(),
              after.terms.at("adamoe.balance").value.item<double>(), 1e-5);
}

TEST(Adamoe, TheLossHasTwoWeights) {
  const auto router = make_router(config_of(3, 3));
  RouteInput input = router_input(router_tokens(10), {.k = 2});
  EXPECT_TRUE(router->route(input).terms.empty());
  input.training = true;
  input.progress = 0.49;
  EXPECT_EQ(router->route(input).terms.at("adamoe.balance").weight, 0.06);
  input.progress = 0.5;
  EXPECT_EQ(router->route(input).terms.at("adamoe.balance").weight, 0.0003);
  MoeConfig none = config_of(3, 3);
  none.routers.adamoe.balance = 0;
  const auto late = make_router(none);
  EXPECT_TRUE(late->wants_statistics());
  EXPECT_EQ(late->route(input).terms.size(), 1u);
  input.progress = 0;
  EXPECT_TRUE(late->route(input).terms.empty());
  none.routers.adamoe.late_balance = 0;
  EXPECT_FALSE(make_router(none)->wants_statistics());
}

TEST(Adamoe, AtBalanceATokenTakesItsPartOfNetworks) {
  double before = 3;
  for (const int64_t nulls : {2, 8, 16}) {
    const double want = 3.0 * 8 / static_cast<double>(8 + nulls);
    const double networks = networks_at_balance(config_of(8, nulls), "adamoe.balance", 3);
    EXPECT_NEAR(networks, want, 0.05 * want) << nulls;
    EXPECT_LT(networks, before);
    before = networks;
  }
}

TEST(Adamoe, NullExpertsCostNothingAndAddNothing) {
  MoeConfig config = config_of(3, 5);
  config.expert_width = 7;
  MoeLayer layer(config, testing::kRouterWidth, 0.5, RandomStream(2));
  const RouteInput input = router_input(router_tokens(200), {.k = 2});
  StatsBook book;
  const at::Tensor y = layer.forward(input, {}, &book, 0).y;
  const Routing routing = layer.router().route(input);
  const at::Tensor none = routing.expert.ge(3).all(-1);
  ASSERT_TRUE(none.any().item<bool>());
  EXPECT_TRUE(y.masked_select(none.unsqueeze(1)).eq(0).all().item<bool>());
  const LayerStats stats = book.layers()[0];
  const double networks = routing.expert.lt(3).sum().item<double>() / 200;
  EXPECT_DOUBLE_EQ(layer.active_networks(ActiveExperts(stats)), networks);
  EXPECT_DOUBLE_EQ(layer.flops_per_token(ActiveExperts(stats)),
                   2 * testing::kRouterWidth * 8 + networks * 4 * 7 * testing::kRouterWidth);
  EXPECT_EQ(stats.count.sum().item<double>(), 400);
}

}  // namespace
}  // namespace smoe
