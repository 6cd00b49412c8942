#include "smoe/moe/limit.h"
#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::make_router;
using testing::router_config;
using testing::router_input;
using testing::router_tokens;

TEST(Switch, TakesTheLikeliestAndWeighsItByItsProbability) {
  const auto router = testing::golden_router(router_config("switch", 6));
  testing::expect_golden(router->route(router_input(testing::golden_tokens(), {})), golden::kSwitch);
  const Routing routing = make_router("switch", 5)->route(router_input(router_tokens(30), {}));
  EXPECT_EQ(routing.expert.size(1), 1);
  EXPECT_TRUE(torch::equal(routing.weight.squeeze(1), std::get<0>(routing.probabilities.value.max(-1))));
}

TEST(Switch, HasNoDial) {
  const auto router = make_router("switch", 5);
  const RouteInput one = router_input(router_tokens(10), {}), other = router_input(router_tokens(10), {.k = 4});
  EXPECT_TRUE(torch::equal(router->route(one).expert, router->route(other).expert));
}

TEST(Switch, TheJitterIsThePublishedOne) {
  EXPECT_EQ(MoeConfig().routers.switch_transformer.jitter, 0.01);
  MoeConfig still = router_config("switch", 5);
  still.routers.switch_transformer.jitter = 0;
  RouteInput input = router_input(router_tokens(50), {});
  input.training = true;
  EXPECT_TRUE(torch::equal(make_router(still)->route(input).logits.value,
                           make_router(still)->route(router_input(router_tokens(50), {})).logits.value));
  EXPECT_FALSE(
      torch::equal(make_router(still)->route(input).logits.value, make_router("switch", 5)->route(input).logits.value));
}

}  // namespace
}  // namespace smoe
