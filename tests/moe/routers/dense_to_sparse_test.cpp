#include "tests/base/temp_folder.h"
#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::make_router;
using testing::router_config;
using testing::router_input;
using testing::router_tokens;

RouteInput training_input(const at::Tensor& x, int64_t k, double progress) {
  RouteInput input = router_input(x, {.k = k});
  input.training = true;
  input.progress = progress;
  return input;
}

TEST(DenseToSparse, CoolsOverTheTraining) {
  const auto router = testing::golden_router(router_config("dense_to_sparse", 6));
  const at::Tensor x = testing::golden_tokens();
  testing::expect_golden(router->route(training_input(x, 2, 0)), golden::kDenseToSparseStart);
  testing::expect_golden(router->route(training_input(x, 2, 0.5)), golden::kDenseToSparseMiddle);
  testing::expect_golden(router->route(training_input(x, 1, 1)), golden::kDenseToSparseEnd);
}

TEST(DenseToSparse, IsAPlainRouterAtEvaluation) {
  MoeConfig config = router_config("dense_to_sparse", 6);
  RouteInput input = router_input(testing::golden_tokens(), {.k = 2});
  testing::expect_golden(testing::golden_router(config)->route(input), golden::kSelectedSoftmax2);
  config.routers.dense_to_sparse.eval_weight = "softmax";
  const auto router = testing::golden_router(config);
  testing::expect_golden(router->route(input), golden::kSoftmax2);
  // Neither the progress nor the stream is asked for.
  input.progress = 1;
  input.random = RandomStream(99);
  testing::expect_golden(router->route(input), golden::kSoftmax2);
}

TEST(DenseToSparse, TakesFewerExpertsAsItCools) {
  MoeConfig config = router_config("dense_to_sparse", 16);
  config.router_init_std = 0.02;  // logits that are nearly the same: what chooses is the noise
  const auto router = make_router(config);
  const at::Tensor x = router_tokens(400);
  const auto active = [&](double progress) { return router->route(training_input(x, 1, progress)).expert.size(1); };
  // At τ = 2, 1, 0.5, 0.3 the published gate takes about 16, 15, 10 and 5 of 16.
  EXPECT_EQ(active(0), 16);
  EXPECT_NEAR(static_cast<double>(active(1 / 1.7)), 15, 1);
  EXPECT_NEAR(static_cast<double>(active(1.5 / 1.7)), 10, 1);
  EXPECT_NEAR(static_cast<double>(active(1)), 5, 1);
  int64_t before = 16;
  for (int step = 0; step <= 20; ++step) {
    const double progress = step / 20.0;
    EXPECT_LE(active(progress), before) << progress;
    before = active(progress);
  }
  EXPECT_EQ(router->route(training_input(x, 9, 1)).expert.size(1), 9) << "k is the least";
}

TEST(DenseToSparse, ALayersKIsThatOfItsValidTokens) {
  const auto router = make_router("dense_to_sparse", 16);
  RouteInput input = training_input(router_tokens(40), 1, 0.9);
  const Routing without = router->route(input);
  input.batch.valid = torch::arange(40).lt(20);
  input.x = torch::cat({input.x.narrow(0, 0, 20), torch::zeros({20, testing::kRouterWidth})});
  const Routing half = router->route(input);
  input.x = torch::cat({input.x.narrow(0, 0, 20), router_tokens(20, 8) * 100});
  EXPECT_EQ(router->route(input).expert.size(1), half.expert.size(1));
  input.batch.valid = torch::zeros({40}, torch::kBool);
  EXPECT_EQ(router->route(input).expert.size(1), 1) << "padding alone asks for no expert";
  EXPECT_GT(without.expert.size(1), 1);
}

TEST(DenseToSparse, WeightsInTrainingAreNotRenormalised) {
  const auto router = make_router("dense_to_sparse", 16);
  const Routing routing = router->route(training_input(router_tokens(50), 1, 1));
  const at::Tensor sum = routing.weight.sum(-1);
  EXPECT_TRUE(sum.le(1 + 1e-6).all().item<bool>());
  EXPECT_TRUE(sum.lt(1 - 1e-7).any().item<bool>());
}

TEST(DenseToSparse, MixedKInTraining) {
  const auto router = make_router("dense_to_sparse", 6);
  RouteInput input = training_input(router_tokens(4), 1, 1);
  const int64_t least = router->route(input).expert.size(1);
  input.k = ActiveK(torch::tensor({0, 1, 6, 5}, torch::kInt32));
  const at::Tensor taken = router->route(input).expert.ge(0).sum(-1);
  EXPECT_TRUE(torch::equal(taken, torch::tensor({0, 1, 6, 5}).clamp_min(least))) << taken;
  for (const ActiveK& wrong : {ActiveK(0), ActiveK(7), ActiveK(torch::tensor({1, 1, -1, 1}, torch::kInt32))}) {
    input.k = wrong;
    EXPECT_THROW(router->route(input), UserError);
  }
}

TEST(DenseToSparse, ATemperatureThatRisesIsRefused) {
  MoeConfig config = router_config("dense_to_sparse", 6);
  config.routers.dense_to_sparse.min_temperature = 3;
  EXPECT_NE(message_of([&] { config.check(); }).find("min_temperature = 3 is larger than"), std::string::npos);
}

}  // namespace
}  // namespace smoe
