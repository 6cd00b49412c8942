#include "smoe/moe/moe_layer.h"
#include "tests/base/temp_folder.h"
#include "tests/moe/routers/class_load.h"

namespace smoe {
namespace {

using testing::make_router;
using testing::networks_at_balance;
using testing::router_input;
using testing::router_tokens;

/// Networks, a null, a copy and a constant expert.
MoeConfig config_of(int64_t networks, double share = 1) {
  MoeConfig config = testing::router_config("moe_pp", networks + 3);
  config.null_experts = config.copy_experts = config.constant_experts = 1;
  config.network_share = share;
  return config;
}

std::shared_ptr<Router> golden_router(const MoeConfig& config) {
  const auto router = testing::golden_router(config, /*below=*/1);
  router->named_parameters()["below_weight"].set_data(
      testing::wave(golden::kExperts * golden::kExperts, 1.1, 0.4, 0.8).view({golden::kExperts, golden::kExperts}));
  return router;
}

TEST(MoePp, AddsTheLogitsOfTheMixtureBelow) {
  MoeConfig config = config_of(3, 0.5);
  RouteInput input = router_input(testing::golden_tokens(), {.k = 2});
  input.state = testing::wave(golden::kTokens * golden::kExperts, 0.9, 0.1, 1).view({golden::kTokens, -1});
  input.training = true;
  const Routing routing = golden_router(config)->route(input);
  testing::expect_golden(routing, golden::kMoePp2);
  const at::Tensor want = torch::tensor(
      std::vector<double>(std::begin(golden::kMoePpState), std::end(golden::kMoePpState)), torch::kFloat64);
  EXPECT_TRUE(torch::allclose(routing.state.flatten(), want, 1e-9, 1e-12));
  EXPECT_NEAR(routing.terms.at("moe_pp.balance").value.item<double>(), golden::kMoePp2Balance[0], 1e-12);
  EXPECT_EQ(routing.terms.at("moe_pp.balance").weight, 0.0017);
  config.routers.moe_pp.renormalize = false;
  testing::expect_golden(golden_router(config)->route(input), golden::kMoePp2Softmax);
}

TEST(MoePp, WithoutTheMapLayersKnowNothingOfEachOther) {
  const auto router = make_router(config_of(5), 9, RouterPlace(testing::kRouterWidth, 1));
  const auto lowest = make_router(config_of(5), 9, RouterPlace(testing::kRouterWidth, 0));
  RouteInput input = router_input(router_tokens(30), {.k = 2});
  const Routing alone = lowest->route(input);
  EXPECT_EQ(lowest->named_parameters().find("below_weight"), nullptr);
  input.state = torch::ones({30, 8});
  EXPECT_FALSE(torch::allclose(router->route(input).state, alone.state));
  const torch::NoGradGuard no_grad;
  router->named_parameters()["below_weight"].zero_();
  EXPECT_TRUE(torch::equal(router->route(input).state, alone.state));
  EXPECT_EQ(router->flops_per_token() - lowest->flops_per_token(), 2 * 8 * 8);
}

TEST(MoePp, AsksForTheStateThatItNeeds) {
  const auto router = make_router(config_of(5), 9, RouterPlace(testing::kRouterWidth, 2));
  RouteInput input = router_input(router_tokens(30), {.k = 2});
  EXPECT_NE(message_of([&] { router->route(input); }).find("logits of the mixture below, [30, 8]"), std::string::npos);
  input.state = torch::ones({30, 7});
  EXPECT_THROW(router->route(input), UserError);
}

TEST(MoePp, AtBalanceATokenTakesNetworksByTheirShare) {
  double before = 0;
  for (const double share : {0.25, 0.5, 1.0}) {
    const double want = 2 * share * 8 / (share * 8 + 3);
    const double networks = networks_at_balance(config_of(8, share), "moe_pp.balance", 2);
    EXPECT_NEAR(networks, want, 0.05 * want) << share;
    EXPECT_GT(networks, before);
    before = networks;
  }
}

TEST(MoePp, CopiesAndNullExpertsGiveTheWeightedInput) {
  MoeConfig config = config_of(1);
  config.constant_experts = 0;
  config.experts = 3;
  MoeLayer layer(config, testing::kRouterWidth, 0.5, RandomStream(2));
  const RouteInput input = router_input(router_tokens(100), {.k = 2});
  const Routing routing = layer.router().route(input);
  const at::Tensor other = routing.expert.ne(0).all(-1);  // {null, copy}
  ASSERT_TRUE(other.any().item<bool>());
  const at::Tensor y = layer.forward(input, {}, nullptr, 0).y;
  const at::Tensor rows = other.nonzero().view({-1});
  EXPECT_TRUE(torch::equal(y.index_select(0, rows), input.x.index_select(0, rows))) << "the copy's weight is 1";
}

}  // namespace
}  // namespace smoe
