#include "tests/base/temp_folder.h"
#include "tests/kernels/mixture_case.h"
#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::expect_golden;
using testing::golden_tokens;
using testing::make_router;
using testing::router_input;
using testing::router_tokens;
using testing::same_bits;

MoeConfig evomoe(int64_t experts) {
  MoeConfig config = testing::router_config("evomoe", experts);
  config.routers.evomoe.threshold = 0.02;
  return config;
}

RouteInput training_input(const at::Tensor& x, int64_t k, double progress) {
  RouteInput input = router_input(x, {.k = k});
  input.training = true;
  input.progress = progress;
  return input;
}

double mean_experts(Router& router, const RouteInput& input) {
  return router.route(input).expert.ge(0).sum(-1).to(torch::kFloat64).mean().item<double>();
}

TEST(Evomoe, CoolsAndThenTakesK) {
  MoeConfig config = evomoe(6);
  config.routers.evomoe.hard_from = 0.5;
  const at::Tensor x = golden_tokens();
  const auto router = testing::golden_router(config);
  const Routing start = router->route(training_input(x, 1, 0));
  expect_golden(start, golden::kEvomoeStart);
  EXPECT_NEAR(start.terms.at("evomoe.balance").value.item<double>(), golden::kEvomoeStartBalance[0], 1e-12);
  expect_golden(router->route(training_input(x, 1, 0.25)), golden::kEvomoeLinear);
  const Routing hard = router->route(training_input(x, 1, 0.5));
  expect_golden(hard, golden::kEvomoeHard);
  EXPECT_NEAR(hard.terms.at("evomoe.balance").value.item<double>(), golden::kEvomoeHardBalance[0], 1e-12);
  config.routers.evomoe.decay = "exponential";
  config.routers.evomoe.weight = "noisy";
  expect_golden(testing::golden_router(config)->route(training_input(x, 2, 0.25)), golden::kEvomoeExponential);
}

TEST(Evomoe, IsTheLargestSoftmaxAtEvaluation) {
  const auto router = testing::golden_router(evomoe(6));
  RouteInput input = router_input(golden_tokens(), {.k = 1});
  expect_golden(router->route(input), golden::kSwitch);
  input.k = 2;
  expect_golden(router->route(input), golden::kSoftmax2);
  // Neither noise nor progress matters.
  const Routing one = router->route(input);
  input.random = RandomStream(99);
  input.progress = 0.9;
  EXPECT_TRUE(same_bits(one.weight, router->route(input).weight));
  EXPECT_TRUE(one.terms.empty());
}

TEST(Evomoe, AtAHugeTemperatureATokenTakesAllExperts) {
  MoeConfig config = evomoe(8);
  config.routers.evomoe.max_temperature = config.routers.evomoe.min_temperature = 1e6;
  const auto router = make_router(config);
  EXPECT_EQ(mean_experts(*router, training_input(router_tokens(100), 1, 0)), 8);
}

TEST(Evomoe, TokensTakeFewerAndFewerExpertsDownToOne) {
  MoeConfig config = evomoe(8);
  config.routers.evomoe.max_temperature = 10;
  config.routers.evomoe.min_temperature = 0.1;
  config.routers.evomoe.decay = "exponential";
  config.routers.evomoe.cool_until = 0.9;
  config.routers.evomoe.hard_from = 0.9;
  const auto router = make_router(config);
  double before = 8;
  for (const double progress : {0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0}) {
    const double mean = mean_experts(*router, training_input(router_tokens(500), 1, progress));
    EXPECT_LE(mean, before) << progress;
    EXPECT_TRUE(progress > 0 || mean > 7) << mean;
    EXPECT_TRUE(progress < 0.9 || mean == 1) << progress << ": " << mean;
    before = mean;
  }
}

TEST(Evomoe, AHardTokenTakesItsOwnK) {
  const auto router = make_router(evomoe(6));
  RouteInput input = training_input(router_tokens(60), 3, 1);
  EXPECT_TRUE(router->route(input).expert.ge(0).sum(-1).eq(3).all().item<bool>());
  const at::Tensor k = torch::arange(60).remainder(7).to(torch::kInt32);
  input.k = ActiveK(k);
  EXPECT_TRUE(torch::equal(router->route(input).expert.ge(0).sum(-1), k.to(torch::kInt64)));
  input.progress = 0;
  EXPECT_TRUE(router->route(input).expert.ge(0).sum(-1).ge(k).all().item<bool>());
}

TEST(Evomoe, NoiseIsTheStreams) {
  const auto router = make_router(evomoe(6));
  RouteInput input = training_input(router_tokens(60), 1, 0.3);
  const Routing one = router->route(input);
  EXPECT_TRUE(torch::equal(one.expert, router->route(input).expert));
  input.random = RandomStream(6);
  EXPECT_FALSE(torch::equal(testing::dense_weights(one, 6), testing::dense_weights(router->route(input), 6)));
}

TEST(Evomoe, RefusesATemperatureThatRises) {
  MoeConfig config = evomoe(5);
  config.routers.evomoe.max_temperature = 0.2;
  EXPECT_NE(message_of([&] { config.check(); }).find("moe.evomoe.min_temperature = 0.5 is larger"), std::string::npos);
}

}  // namespace
}  // namespace smoe
