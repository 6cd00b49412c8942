#include "smoe/moe/moe_layer.h"
#include "smoe/moe/routers/permutation.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"
#include "tests/kernels/mixture_case.h"
#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::dense_weights;
using testing::make_router;
using testing::router_input;
using testing::router_tokens;
using testing::same_bits;
using testing::wave;

MoeConfig comet(int64_t experts, const std::string& permutation = "none") {
  MoeConfig config = testing::router_config("comet", experts);
  config.routers.comet.permutation = permutation;
  config.routers.comet.permutation_until = 0.5;
  config.routers.comet.max_temperature = config.routers.comet.min_temperature = 0.5;
  return config;
}

RouteInput training_input(const at::Tensor& x, double progress = 0) {
  RouteInput input = router_input(x, {});
  input.training = true;
  input.progress = progress;
  return input;
}

void set(Router& router, const std::string& name, const at::Tensor& value) {
  at::Tensor parameter = router.named_parameters()[name];
  ASSERT_EQ(parameter.numel(), value.numel()) << name;
  const torch::NoGradGuard no_grad;
  parameter.copy_(value.view(parameter.sizes()));
}

/// A router with the weights of tests/golden/routers.py.
std::shared_ptr<Router> script_router(const std::string& permutation) {
  const int64_t E = golden::kExperts, D = golden::kWidth;
  const auto router = testing::golden_router(comet(E, permutation));
  set(*router, "split_weight", wave(2 * (E - 1) * D, 0.9, 0.4, 0.8));
  set(*router, "split_bias", wave(2 * (E - 1), 1, 0.3, 0.2));
  set(*router, "leaf_weight", wave(2 * E * D, 1.1, 0.7, 1.2));
  set(*router, "leaf_bias", wave(2 * E, 1, 0.6, 0.5));
  if (permutation == "per_tree") set(*router, "permutation", wave(2 * E * E, 2.3, 0.1, 0.7));
  return router;
}

/// Its splits are far beyond their width.
void saturate(Router& router) {
  const torch::NoGradGuard no_grad;
  router.named_parameters()["split_weight"].mul_(1e6);
}

TEST(Comet, WeighsWithItsTrees) {
  const auto router = script_router("none");
  testing::expect_golden(router->route(router_input(testing::golden_tokens(), {})), golden::kComet);
  const Routing routing = router->route(training_input(testing::golden_tokens()));
  testing::expect_golden(routing, golden::kComet);
  EXPECT_NEAR(routing.terms.at("comet.saturation").value.item<double>(), golden::kCometSaturation[0], 1e-12);
  EXPECT_EQ(routing.terms.size(), 1u);
}

TEST(Comet, WeighsWithItsPermutations) {
  const auto router = script_router("per_tree");
  const at::Tensor x = testing::golden_tokens();
  testing::expect_golden(router->route(router_input(x, {})), golden::kCometPermuted);
  const Routing soft = router->route(training_input(x));
  testing::expect_golden(soft, golden::kCometSoft);
  EXPECT_NEAR(soft.terms.at("comet.permutation").value.item<double>(), golden::kCometSoftEntropy[0], 1e-12);
  // Once the share of the training is over, they are hard in training too.
  const Routing hard = router->route(training_input(x, 0.5));
  testing::expect_golden(hard, golden::kCometPermuted);
  EXPECT_EQ(hard.terms.count("comet.permutation"), 0u);
}

TEST(Comet, WeightsAreSharesOfThoseAboveZero) {
  for (const char* permutation : {"none", "shared", "per_tree"}) {
    const auto router = make_router(comet(7, permutation));
    for (const RouteInput& input : {router_input(router_tokens(200), {}), training_input(router_tokens(200))}) {
      const Routing routing = router->route(input);
      EXPECT_TRUE(torch::allclose(routing.weight.sum(-1), torch::ones({200}), 0, 1e-5));
      EXPECT_TRUE(routing.weight.gt(0).eq(routing.expert.ge(0)).all().item<bool>());
    }
  }
}

TEST(Comet, IsDenseAtFirstAndTakesOneExpertATreeOnceSaturated) {
  for (const int64_t trees : {1, 2, 3}) {
    MoeConfig config = comet(7);
    config.routers.comet.trees = trees;
    config.router_init_std = 0.02;
    const auto router = make_router(config);
    const RouteInput input = router_input(router_tokens(300), {});
    EXPECT_TRUE(router->route(input).expert.ge(0).sum(-1).eq(7).all().item<bool>());
    saturate(*router);
    const Routing routing = router->route(input);
    EXPECT_EQ(routing.expert.size(1), trees);
    EXPECT_TRUE(routing.expert.ge(0).any(0).all().item<bool>());
    // Nothing is left to drive.
    EXPECT_NEAR(router->route(training_input(input.x)).terms.at("comet.saturation").value.item<double>(), 0, 1e-5);
  }
}

TEST(Comet, SaturatedSplitsHaveNoGradient) {
  const auto router = make_router(comet(6));
  saturate(*router);
  const Routing routing = router->route(training_input(router_tokens(50)));
  (routing.weight.square().sum() + routing.terms.at("comet.saturation").value).backward();
  for (const auto& parameter : router->named_parameters()) {
    const at::Tensor& gradient = parameter.value().grad();
    ASSERT_TRUE(gradient.isfinite().all().item<bool>()) << parameter.key();
    EXPECT_TRUE(!parameter.key().starts_with("split") || gradient.eq(0).all().item<bool>()) << parameter.key();
  }
}

TEST(Comet, TheIdentityIsNoPermutation) {
  const auto plain = make_router(comet(6));
  for (const char* permutation : {"shared", "per_tree"}) {
    const auto router = make_router(comet(6, permutation));
    const int64_t count = permutation == std::string("shared") ? 1 : 2;
    set(*router, "permutation", torch::eye(6).repeat({count, 1, 1}) * 30);
    const RouteInput input = router_input(router_tokens(40), {});
    const at::Tensor want = dense_weights(plain->route(input), 6);
    EXPECT_TRUE(same_bits(dense_weights(router->route(input), 6), want)) << "hard";
    EXPECT_TRUE(torch::allclose(dense_weights(router->route(training_input(input.x)), 6), want, 0, 1e-5)) << "soft";
  }
}

TEST(Comet, GradientsWithPermutations) {
  for (const char* permutation : {"shared", "per_tree"}) {
    MoeConfig config = comet(5, permutation);
    config.routers.comet.noise = 0.1;
    const auto router = make_router(config);
    router->to(torch::kFloat64);
    const at::Tensor x = router_tokens(4).to(torch::kFloat64);
    std::vector<testing::NamedInput> inputs = {{"x", x}};
    for (const auto& parameter : router->named_parameters()) inputs.emplace_back(parameter.key(), parameter.value());
    testing::gradcheck(
        [&] {
          const Routing routing = router->route(training_input(x));
          return torch::cat({dense_weights(routing, 5).flatten(),
                             routing.terms.at("comet.permutation").value.to(torch::kFloat64).view({1})});
        },
        inputs);
  }
}

TEST(Comet, AHardPermutationStays) {
  const auto router = make_router(comet(6, "shared"));
  const Routing routing = router->route(training_input(router_tokens(30), 0.5));
  routing.weight.square().sum().backward();
  EXPECT_FALSE(router->named_parameters()["permutation"].grad().defined()) << "an optimizer passes it over";
  EXPECT_TRUE(router->named_parameters()["leaf_weight"].grad().defined());
  // Another one is seen as soon as it is there.
  const RouteInput input = router_input(router_tokens(30), {});
  const at::Tensor before = dense_weights(router->route(input), 6);
  const at::Tensor turned = router->named_parameters()["permutation"].detach().roll(1, 2).clone();
  set(*router, "permutation", turned);
  EXPECT_TRUE(torch::equal(dense_weights(router->route(input), 6), before.roll(1, 1)));
}

TEST(Comet, CoolsAndDrawsInTraining) {
  MoeConfig config = comet(6, "shared");
  config.routers.comet.max_temperature = 1;
  config.routers.comet.min_temperature = 0.01;
  const auto entropy = [](Router& router, double progress, uint64_t key) {
    RouteInput input = training_input(router_tokens(3), progress);
    input.random = RandomStream(key);
    return router.route(input).terms.at("comet.permutation").value.item<double>();
  };
  const auto router = make_router(config);
  EXPECT_GT(entropy(*router, 0, 1), 2 * entropy(*router, 0.25, 1));
  EXPECT_GT(entropy(*router, 0.25, 1), entropy(*router, 0.49, 1));
  EXPECT_EQ(entropy(*router, 0, 1), entropy(*router, 0, 2));
  config.routers.comet.noise = 1;
  const auto noisy = make_router(config);
  EXPECT_NE(entropy(*noisy, 0, 1), entropy(*noisy, 0, 2));
  EXPECT_EQ(entropy(*noisy, 0, 1), entropy(*noisy, 0, 1));
}

TEST(Comet, FindsTheOrderOfItsExperts) {
  // Experts that stand in another order than the leaves want them; the permutation alone is trained.
  const int64_t E = 6;
  MoeConfig config = comet(E, "shared");
  config.routers.comet.max_temperature = 1;
  config.routers.comet.min_temperature = 0.05;
  config.routers.comet.permutation_until = 1;
  config.router_init_std = 0.3;
  const auto plain = make_router(comet(E)), router = make_router(config);
  const at::Tensor x = router_tokens(200), answers = router_tokens(E, 77), order = torch::tensor({4, 0, 5, 1, 3, 2});
  const auto output = [&](const Routing& routing, const at::Tensor& experts) {
    return torch::mm(dense_weights(routing, E), experts);
  };
  for (const auto& parameter : plain->named_parameters()) set(*router, parameter.key(), parameter.value().detach());
  set(*router, "permutation", torch::eye(E) * 0.3);
  const at::Tensor target = output(plain->route(router_input(x, {})), answers.index_select(0, order)).detach();
  const auto loss = [&](const RouteInput& input) {
    return (output(router->route(input), answers) - target).square().mean();
  };
  const double before = loss(router_input(x, {})).item<double>();
  at::Tensor parameter = router->named_parameters()["permutation"];
  for (int step = 0; step < 100; ++step) {
    parameter.mutable_grad() = at::Tensor();
    loss(training_input(x, step / 100.0)).backward();
    const torch::NoGradGuard no_grad;
    parameter -= 0.05 * parameter.grad().sign();
  }
  EXPECT_GT(before, 0.1);
  EXPECT_LT(loss(router_input(x, {})).item<double>(), 0.5 * before)
      << "order " << at::IntArrayRef(best_assignment(parameter[0]));
}

TEST(Comet, TheLossSaturatesTheSplits) {
  MoeConfig config = comet(8);
  config.router_init_std = 0.02;
  const auto router = make_router(config);
  const at::Tensor x = router_tokens(100);
  const auto active = [&] {
    return router->route(router_input(x, {})).expert.ge(0).sum(-1).to(torch::kFloat64).mean().item<double>();
  };
  EXPECT_EQ(active(), 8);
  for (int step = 0; step < 200; ++step) {
    for (at::Tensor& parameter : router->parameters()) parameter.mutable_grad() = at::Tensor();
    router->route(training_input(x)).terms.at("comet.saturation").value.backward();
    const torch::NoGradGuard no_grad;
    for (at::Tensor& parameter : router->parameters()) {
      if (parameter.grad().defined()) parameter -= 0.02 * parameter.grad().sign();
    }
  }
  EXPECT_LT(active(), 3);
}

TEST(Comet, ANotANumberIsNotLost) {
  const auto router = make_router(comet(5));
  at::Tensor x = router_tokens(4);
  x[2][3] = NAN;
  const at::Tensor weight = router->route(router_input(x, {})).weight;
  EXPECT_TRUE(weight[2].isnan().any().item<bool>());
  EXPECT_TRUE(weight[0].isfinite().all().item<bool>());
}

TEST(Comet, RefusesATemperatureThatRises) {
  MoeConfig config = comet(5, "shared");
  config.routers.comet.min_temperature = 1;
  EXPECT_NE(message_of([&] { config.check(); }).find("moe.comet.min_temperature = 1 is larger"), std::string::npos);
}

}  // namespace
}  // namespace smoe
