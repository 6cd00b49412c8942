#include "smoe/moe/limit.h"
#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::make_router;
using testing::router_config;
using testing::router_input;
using testing::router_tokens;

TEST(Gshard, WeighsTheTwoLikeliest) {
  const auto router = testing::golden_router(router_config("gshard", 6));
  RouteInput input = router_input(testing::golden_tokens(), {});
  const Routing routing = router->route(input);
  testing::expect_golden(routing, golden::kGshard);
  EXPECT_TRUE(routing.terms.empty());
  input.training = true;
  const Routing training = router->route(input);
  ASSERT_EQ(training.terms.size(), 1u);
  EXPECT_NEAR(training.terms.at("gshard.balance").value.item<double>(), golden::kGshardBalance[0], 1e-12);
  EXPECT_EQ(training.terms.at("gshard.balance").weight, 0.01);
}

TEST(Gshard, TheSecondStaysAsOftenAsTwiceItsWeight) {
  const auto router = make_router("gshard", 4);
  const at::Tensor x = router_tokens(1, 3).expand({20000, -1}).contiguous() * 0.1;
  RouteInput input = router_input(x, {});
  const at::Tensor weight = router->route(input).weight;
  const double w = weight[0][1].item<double>(), first = weight[0][0].item<double>();
  ASSERT_TRUE(w > 0.1 && w < 0.49) << w;
  input.training = true;
  const Routing routing = router->route(input);
  const at::Tensor stays = routing.expert.select(1, 1).ge(0);
  EXPECT_NEAR(stays.to(torch::kFloat64).mean().item<double>(), 2 * w, 0.015);  // 4 σ
  EXPECT_TRUE(routing.weight.select(1, 0).sub(first).abs().lt(1e-6).all().item<bool>()) << "the first keeps its weight";
  EXPECT_TRUE(routing.weight.select(1, 1).masked_select(stays.logical_not()).eq(0).all().item<bool>());
  MoeConfig always = router_config("gshard", 4);
  always.routers.gshard.random_second = false;
  EXPECT_TRUE(make_router(always)->route(input).expert.ge(0).all().item<bool>());
}

TEST(Gshard, OneExpertAloneTakesAll) {
  const Routing routing = make_router("gshard", 1)->route(router_input(router_tokens(5), {}));
  EXPECT_EQ(routing.expert.size(1), 1);
  EXPECT_TRUE(torch::equal(routing.weight, torch::ones({5, 1})));
}

}  // namespace
}  // namespace smoe
