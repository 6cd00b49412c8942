#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::dense_weights;
using testing::make_router;
using testing::router_config;
using testing::router_input;
using testing::router_tokens;

TEST(DropGate, DropsLogitsInTraining) {
  const auto router = testing::golden_router(router_config("drop_gate", 6));
  RouteInput input = router_input(testing::golden_tokens(), {.k = 2});
  testing::expect_golden(router->route(input), golden::kSelectedSoftmax2);
  input.training = true;
  testing::expect_golden(router->route(input), golden::kDropGate2);
  input.k = 5;
  testing::expect_golden(router->route(input), golden::kDropGate5);
}

TEST(DropGate, LossesSeeWhatWasNotDropped) {
  const auto router = make_router("drop_gate", 5);
  RouteInput input = router_input(router_tokens(20), {.k = 2});
  const Routing still = router->route(input);
  input.training = true;
  const Routing training = router->route(input);
  EXPECT_TRUE(torch::equal(still.logits.value, training.logits.value));
  EXPECT_TRUE(torch::equal(still.probabilities.value, training.probabilities.value));
  EXPECT_FALSE(torch::equal(dense_weights(still, 5), dense_weights(training, 5)));
}

TEST(DropGate, WithoutARateItIsTheLearnedRouter) {
  MoeConfig config = router_config("drop_gate", 6);
  config.routers.drop_gate.rate = 0;
  RouteInput input = router_input(router_tokens(30), {.k = 3});
  const at::Tensor want = dense_weights(make_router("learned", 6)->route(input), 6);
  input.training = true;
  EXPECT_TRUE(torch::equal(dense_weights(make_router(config)->route(input), 6), want));
}

TEST(DropGate, DroppedExpertsAreTakenInNoOrder) {
  // All logits negative: at k = 1 whoever is dropped wins, and none of them more often than another.
  const auto router = make_router("drop_gate", 4);
  const torch::NoGradGuard no_grad;
  router->named_parameters()["weight"].fill_(-1);
  RouteInput input = router_input(torch::ones({40000, testing::kRouterWidth}), {.k = 1});
  input.training = true;
  const at::Tensor share = router->route(input).expert.view({-1}).bincount({}, 4).to(torch::kFloat64) / 40000;
  EXPECT_TRUE(torch::allclose(share, torch::full({4}, 0.25, torch::kFloat64), 0, 0.01)) << share;  // 4.6 σ
}

}  // namespace
}  // namespace smoe
