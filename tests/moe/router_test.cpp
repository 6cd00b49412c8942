// What every kind of router promises, by what it declares; then what is particular to each.
#include "smoe/moe/router.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using testing::gradcheck;
using testing::same_bits;

constexpr int64_t kWidth = 12;

at::Tensor tokens_of(int64_t count, uint64_t seed = 1) {
  at::Tensor x = torch::empty({count, kWidth});
  RandomStream(seed).fill_normal(x, 0, 1);
  return x;
}

MoeConfig config_of(const std::string& kind, int64_t experts) {
  MoeConfig config;
  config.experts = experts;
  config.router = kind;
  config.router_init_std = 1;  // logits far apart, so that rounding changes no choice
  return config;
}

std::shared_ptr<Router> make_router(const RouterKind& kind, int64_t experts, uint64_t seed = 9) {
  return kind.make(config_of(kind.name, experts), kWidth, RandomStream(seed));
}

RouteInput input_of(const at::Tensor& x, const ActiveK& k) {
  RouteInput input;
  input.x = x;
  input.k = k;
  input.random = RandomStream(5);
  return input;
}

/// What holds for any routing of T tokens among E experts.
void check_routing(const Routing& routing, int64_t T, int64_t E) {
  ASSERT_EQ(routing.expert.scalar_type(), torch::kInt32);
  ASSERT_EQ(routing.expert.dim(), 2);
  ASSERT_EQ(routing.expert.size(0), T);
  ASSERT_EQ(routing.weight.sizes(), routing.expert.sizes());
  ASSERT_TRUE(routing.weight.isfinite().all().item<bool>());
  ASSERT_TRUE(routing.expert.ge(-1).logical_and(routing.expert.lt(E)).all().item<bool>());
  ASSERT_TRUE(routing.weight.masked_select(routing.expert.lt(0)).eq(0).all().item<bool>()) << "an empty slot's weight";
  for (int64_t t = 0; t < T; ++t) {
    std::set<int64_t> seen;
    for (int64_t s = 0; s < routing.expert.size(1); ++s) {
      const int64_t e = routing.expert[t][s].item<int64_t>();
      ASSERT_TRUE(e < 0 || seen.insert(e).second) << "expert " << e << " twice for token " << t;
    }
  }
  if (routing.logits.value.defined()) {
    ASSERT_EQ(routing.logits.value.sizes(), at::IntArrayRef({T, E}));
  }
  if (routing.probabilities.value.defined()) {
    const at::Tensor p = routing.probabilities.value;
    ASSERT_EQ(p.sizes(), at::IntArrayRef({T, E}));
    ASSERT_TRUE(p.ge(0).all().item<bool>());
    ASSERT_TRUE(torch::allclose(p.sum(-1), torch::ones({T}, p.options()), 0, 1e-5));
  }
}

class EveryRouter : public ::testing::TestWithParam<std::string> {
 protected:
  const RouterKind& kind() const { return find_router_kind(GetParam()); }
  bool dial_is_k() const { return kind().traits.dial == Dial::kK; }
};

INSTANTIATE_TEST_SUITE_P(Kinds, EveryRouter, ::testing::ValuesIn([] {
                           std::vector<std::string> names;
                           for (const RouterKind& kind : router_kinds()) names.push_back(kind.name);
                           return names;
                         }()),
                         [](const auto& kind) { return kind.param; });

TEST_P(EveryRouter, DeclaresItself) {
  EXPECT_FALSE(kind().summary.empty());
  const auto router = make_router(kind(), 4);
  const RouterTraits made = router->traits(), listed = kind().traits;
  EXPECT_EQ(made.dial, listed.dial);
  EXPECT_EQ(made.trainable, listed.trainable);
  EXPECT_EQ(made.causal, listed.causal);
  EXPECT_EQ(made.batch_independent, listed.batch_independent);
  EXPECT_EQ(made.random_at_evaluation, listed.random_at_evaluation);
  EXPECT_GE(router->flops_per_token(), 0);
  bool moves = false;
  for (const at::Tensor& parameter : router->parameters()) moves = moves || parameter.requires_grad();
  EXPECT_EQ(moves, listed.trainable);
}

TEST_P(EveryRouter, RoutesAnyNumberOfTokensAtEveryK) {
  for (const int64_t E : {1, 2, 5, 16}) {
    const auto router = make_router(kind(), E);
    for (const int64_t T : {0, 1, 33}) {
      for (int64_t k = 1; k <= E; ++k) {
        SCOPED_TRACE("T " + std::to_string(T) + ", E " + std::to_string(E) + ", k " + std::to_string(k));
        const Routing routing = router->route(input_of(tokens_of(T), k));
        check_routing(routing, T, E);
        if (HasFatalFailure()) return;
        if (dial_is_k()) {
          ASSERT_TRUE(routing.expert.ge(0).sum(-1).eq(k).all().item<bool>());
        }
      }
    }
  }
}

TEST_P(EveryRouter, RefusesKOutOfRange) {
  if (!dial_is_k()) GTEST_SKIP() << "its dial is not k";
  const auto router = make_router(kind(), 4);
  for (const int64_t k : {-3, 0, 5, 1000}) {
    EXPECT_THROW(router->route(input_of(tokens_of(3), k)), UserError) << k;
  }
  EXPECT_THROW(router->route(input_of(tokens_of(2), ActiveK(torch::tensor({1, 5}, torch::kInt32)))), UserError);
  EXPECT_THROW(router->route(input_of(tokens_of(2), ActiveK(torch::tensor({1}, torch::kInt32)))), UserError);
}

TEST_P(EveryRouter, KPerTokenEqualsUniformK) {
  if (!dial_is_k() || !kind().traits.batch_independent) GTEST_SKIP() << "not promised";
  const int64_t E = 6, T = 35;
  const auto router = make_router(kind(), E);
  const at::Tensor x = tokens_of(T), k = torch::arange(T).remainder(E + 1).to(torch::kInt32);
  const Routing mixed = router->route(input_of(x, ActiveK(k)));
  check_routing(mixed, T, E);
  for (int64_t own = 1; own <= E; ++own) {
    const Routing uniform = router->route(input_of(x, own));
    for (int64_t t = 0; t < T; ++t) {
      if (k[t].item<int64_t>() != own) continue;
      EXPECT_TRUE(torch::equal(mixed.expert[t].narrow(0, 0, own), uniform.expert[t])) << t;
      EXPECT_TRUE(torch::allclose(mixed.weight[t].narrow(0, 0, own), uniform.weight[t], 0, 1e-6)) << t;
    }
  }
  EXPECT_TRUE(mixed.expert.masked_select(k.eq(0).unsqueeze(1)).eq(-1).all().item<bool>());
}

TEST_P(EveryRouter, TheDialTouchesNoWeight) {
  const auto router = make_router(kind(), 6);
  std::vector<at::Tensor> before;
  for (const at::Tensor& parameter : router->parameters()) before.push_back(parameter.detach().clone());
  const Routing first = router->route(input_of(tokens_of(20), 2));
  for (const int64_t k : {6, 1, 3}) router->route(input_of(tokens_of(20), k));
  for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(same_bits(router->parameters()[i], before[i]));
  if (kind().traits.random_at_evaluation) return;
  const Routing again = router->route(input_of(tokens_of(20), 2));
  EXPECT_TRUE(same_bits(first.expert, again.expert));
  EXPECT_TRUE(same_bits(first.weight, again.weight));
}

TEST_P(EveryRouter, TokensDoNotSeeWhatTheyMayNot) {
  if (kind().traits.random_at_evaluation) GTEST_SKIP() << "random";
  const auto router = make_router(kind(), 6);
  const at::Tensor x = tokens_of(40);
  const Routing whole = router->route(input_of(x, 3));
  if (kind().traits.batch_independent) {
    for (const int64_t count : {1, 2, 17, 39}) {
      for (const int64_t first : {int64_t{0}, 40 - count}) {
        const Routing part = router->route(input_of(x.narrow(0, first, count), 3));
        EXPECT_TRUE(same_bits(part.expert, whole.expert.narrow(0, first, count))) << count;
        EXPECT_TRUE(same_bits(part.weight, whole.weight.narrow(0, first, count))) << count;
      }
    }
  }
  if (kind().traits.causal) {
    const at::Tensor changed = torch::cat({x.narrow(0, 0, 25), tokens_of(15, /*seed=*/2)});
    const Routing routing = router->route(input_of(changed, 3));
    EXPECT_TRUE(torch::equal(routing.expert.narrow(0, 0, 25), whole.expert.narrow(0, 0, 25)));
    EXPECT_TRUE(torch::equal(routing.weight.narrow(0, 0, 25), whole.weight.narrow(0, 0, 25)));
  }
}

TEST_P(EveryRouter, ASeedIsARouter) {
  const auto routing = [&](uint64_t seed) { return make_router(kind(), 8, seed)->route(input_of(tokens_of(30), 2)); };
  EXPECT_TRUE(same_bits(routing(1).weight, routing(1).weight));
  EXPECT_TRUE(same_bits(routing(1).expert, routing(1).expert));
  const auto one = make_router(kind(), 8, 1), other = make_router(kind(), 8, 2);
  if (one->parameters().empty()) return;
  EXPECT_FALSE(torch::equal(one->parameters()[0], other->parameters()[0]));
}

TEST_P(EveryRouter, Gradients) {
  const auto router = make_router(kind(), 4);
  router->to(torch::kFloat64);
  const at::Tensor x = tokens_of(5).to(torch::kFloat64);
  std::vector<testing::NamedInput> inputs = {{"x", x}};
  for (const auto& parameter : router->named_parameters()) {
    if (parameter.value().requires_grad()) inputs.emplace_back(parameter.key(), parameter.value());
  }
  x.set_requires_grad(true);
  for (int64_t k = 1; k <= 4; ++k) {
    if (!router->route(input_of(x, k)).weight.requires_grad()) continue;
    gradcheck([&] { return router->route(input_of(x, k)).weight; }, inputs);
  }
}

TEST(Router, NamesAreDifferentAndUnknownOnesAreSuggested) {
  std::set<std::string> names;
  for (const RouterKind& kind : router_kinds()) EXPECT_TRUE(names.insert(kind.name).second) << kind.name;
  EXPECT_NE(message_of([] { find_router_kind("random_forzen"); }).find("did you mean 'random_frozen'?"),
            std::string::npos);
  EXPECT_EQ(dial_name(Dial::kNone) + dial_name(Dial::kK) + dial_name(Dial::kThreshold) + dial_name(Dial::kCapacity) +
                dial_name(Dial::kSamples),
            "nonekthresholdcapacitysamples");
}

TEST(RandomFrozen, IsDrawnOnceWithZeroBias) {
  MoeConfig config = config_of("random_frozen", 64);
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
  const auto router = make_router(find_router_kind("random_frozen"), 6);
  const auto parameters = router->named_parameters();
  const at::Tensor x = tokens_of(50), logits = torch::linear(x, parameters["weight"], parameters["bias"]);
  for (int64_t k = 1; k <= 6; ++k) {
    const Routing routing = router->route(input_of(x, k));
    EXPECT_TRUE(torch::allclose(routing.logits.value, logits, 1e-5, 1e-5));
    EXPECT_TRUE(torch::allclose(routing.probabilities.value, torch::softmax(logits, -1), 1e-5, 1e-6));
    const at::Tensor chosen = logits.gather(1, routing.expert.to(torch::kInt64));
    EXPECT_TRUE(torch::allclose(routing.weight, torch::softmax(chosen, -1), 1e-5, 1e-6)) << k;
    EXPECT_TRUE(torch::allclose(routing.weight.sum(-1), torch::ones({50}), 0, 1e-6)) << k;
    EXPECT_FALSE(routing.state.defined());
  }
  EXPECT_TRUE(torch::equal(router->route(input_of(x, 1)).weight, torch::ones({50, 1})));
  // With every expert on, the weights are the softmax over all of them.
  const Routing all = router->route(input_of(x, 6));
  const at::Tensor dense = torch::zeros({50, 6}).scatter(1, all.expert.to(torch::kInt64), all.weight);
  EXPECT_TRUE(torch::allclose(dense, torch::softmax(logits, -1), 1e-5, 1e-6));
}

TEST(RandomFrozen, TheGradientReachesItsInputAndNotItself) {
  const auto router = make_router(find_router_kind("random_frozen"), 6);
  const at::Tensor x = tokens_of(10).requires_grad_();
  const at::Tensor v = torch::arange(20).view({10, 2}).to(torch::kFloat32);
  (router->route(input_of(x, 2)).weight * v).sum().backward();
  EXPECT_GT(x.grad().abs().sum().item<double>(), 0.1);
  for (const at::Tensor& parameter : router->parameters()) EXPECT_FALSE(parameter.grad().defined());
  // At k = 1 the weight is the constant 1.
  const at::Tensor alone = tokens_of(10).requires_grad_();
  router->route(input_of(alone, 1)).weight.sum().backward();
  EXPECT_TRUE(alone.grad().eq(0).all().item<bool>());
}

}  // namespace
}  // namespace smoe
