#include "tests/base/temp_folder.h"
#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::make_router;
using testing::router_config;
using testing::router_input;
using testing::router_tokens;

TEST(ExpertChoice, ExpertsTakeTheTokensThatSuitThemBest) {
  const auto router = testing::golden_router(router_config("expert_choice", 6));
  const auto at = [&](double c) { return router->route(router_input(testing::golden_tokens(), {.dial = c})); };
  testing::expect_golden(at(1), golden::kExpertChoice1);
  testing::expect_golden(at(2), golden::kExpertChoice2);
}

TEST(ExpertChoice, LoadIsEven) {
  const auto router = make_router("expert_choice", 5);
  for (const double c : {0.01, 1.0, 2.5, 5.0}) {
    const Routing routing = router->route(router_input(router_tokens(33), {.dial = c}));
    const at::Tensor count = routing.expert.ge(0).sum(0);
    EXPECT_TRUE(count.eq(static_cast<int64_t>(std::ceil(33 * c / 5))).all().item<bool>()) << c << count;
  }
}

TEST(ExpertChoice, PaddingIsNotTaken) {
  const auto router = make_router("expert_choice", 5);
  RouteInput input = router_input(router_tokens(40), {.dial = 5.0});
  input.batch.valid = torch::arange(40).remainder(3).eq(0);
  const Routing routing = router->route(input);
  const at::Tensor taken = routing.expert.ge(0).sum(-1);
  EXPECT_TRUE(taken.eq(torch::where(input.batch.valid, 5, 0)).all().item<bool>());
  input.batch.valid = torch::zeros({40}, torch::kBool);
  EXPECT_TRUE(router->route(input).expert.eq(-1).all().item<bool>());
}

TEST(ExpertChoice, RefusesWhatDoesNotGoTogether) {
  MoeConfig config = router_config("expert_choice", 4);
  config.check();
  config.capacity_factor = 1.25;
  EXPECT_NE(message_of([&] { config.check(); }).find("moe.capacity_factor = 1.25"), std::string::npos);
  config.capacity_factor = 0;
  config.routers.expert_choice.capacity = 5;
  EXPECT_NE(message_of([&] { config.check(); }).find("larger than moe.experts = 4"), std::string::npos);
}

}  // namespace
}  // namespace smoe
