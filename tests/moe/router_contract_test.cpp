// The contract of every kind of router, generated from what the kind declares; what reference implementations get wrong
// again and again is in router_hazards_test.cpp.
#include <gtest/gtest.h>

#include <set>

#include "smoe/models/model_folder.h"
#include "smoe/tensor/tensor_io.h"
#include "smoe/train/recipe.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"
#include "tests/kernels/mixture_case.h"
#include "tests/moe/every_router.h"

namespace smoe {
namespace {

using testing::dense_weights;
using testing::dial_values;
using testing::DialValue;
using testing::gradcheck;
using testing::router_tokens;
using testing::same_bits;
using testing::text_of;
using testing::told;

using RouterContract = testing::EveryRouter;

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

INSTANTIATE_TEST_SUITE_P(Kinds, RouterContract, testing::every_router(), testing::router_name);

TEST_P(RouterContract, DeclaresItself) {
  EXPECT_FALSE(kind().summary.empty());
  EXPECT_FALSE(kind().paper.empty());
  const auto made = router(4);
  const RouterTraits own = made->traits(), listed = traits();
  EXPECT_EQ(own.dial, listed.dial);
  EXPECT_EQ(own.trainable, listed.trainable);
  EXPECT_EQ(own.causal, listed.causal);
  EXPECT_EQ(own.batch_independent, listed.batch_independent);
  EXPECT_EQ(own.random_at_evaluation, listed.random_at_evaluation);
  EXPECT_EQ(own.scores, listed.scores);
  EXPECT_EQ(own.more_in_training, listed.more_in_training);
  EXPECT_EQ(own.state, listed.state);
  EXPECT_EQ(own.families, listed.families);
  EXPECT_GE(made->flops_per_token(), 0);
  bool moves = false;
  for (const at::Tensor& parameter : made->parameters()) moves = moves || parameter.requires_grad();
  EXPECT_EQ(moves, listed.trainable);
  const Routing routing = made->route(input_of(router_tokens(3), some_value(4), 4));
  EXPECT_EQ(routing.logits.value.defined(), listed.scores);
  EXPECT_EQ(routing.probabilities.value.defined(), listed.scores);
  EXPECT_EQ(routing.state.defined(), listed.state);
}

TEST_P(RouterContract, RoutesAnyNumberOfTokensAtEveryValue) {
  for (const int64_t E : {1, 2, 5, 16}) {
    const auto made = router(E);
    for (const int64_t T : {0, 1, 33}) {
      for (const DialValue& value : dial_values(traits().dial, E)) {
        for (const bool training : {false, true}) {
          SCOPED_TRACE(concat("T ", T, ", E ", E, ", ", text_of(value), training ? ", training" : ""));
          RouteInput input = input_of(router_tokens(T), value, E);
          input.training = training;
          const Routing routing = made->route(input);
          check_routing(routing, T, E);
          if (HasFatalFailure()) return;
          if (dial_is_k()) {
            const at::Tensor taken = routing.expert.ge(0).sum(-1);
            const bool more = training && traits().more_in_training;
            ASSERT_TRUE((more ? taken.ge(value.k.uniform) : taken.eq(value.k.uniform)).all().item<bool>());
          }
        }
      }
      // The far end of a dial is the dense mixture.
      if (traits().dial == Dial::kNone) continue;
      const Routing all = made->route(input_of(router_tokens(T), dial_values(traits().dial, E).back(), E));
      ASSERT_TRUE(all.expert.ge(0).sum(-1).eq(E).all().item<bool>()) << E;
    }
  }
}

TEST_P(RouterContract, RefusesValuesOutsideItsDial) {
  const auto made = router(4);
  if (dial_is_k()) {
    for (const int64_t k : {-3, 0, 5, 1000}) {
      EXPECT_THROW(made->route(input_of(router_tokens(3), {.k = k}, 4)), UserError) << k;
    }
    const auto per_token = [](const at::Tensor& k) { return DialValue{.k = ActiveK(k)}; };
    EXPECT_THROW(made->route(input_of(router_tokens(2), per_token(torch::tensor({1, 5}, torch::kInt32)), 4)),
                 UserError);
    EXPECT_THROW(made->route(input_of(router_tokens(2), per_token(torch::tensor({1}, torch::kInt32)), 4)), UserError);
  } else if (traits().dial != Dial::kNone) {
    for (const double value : {-1.0, 0.0, 4.5}) {
      EXPECT_THROW(made->route(input_of(router_tokens(3), {.dial = value}, 4)), UserError) << value;
    }
  }
}

TEST_P(RouterContract, KPerTokenEqualsUniformK) {
  if (!dial_is_k() || !traits().batch_independent) GTEST_SKIP() << "not promised";
  const int64_t E = 6, T = 35;
  const auto made = router(E);
  const at::Tensor x = router_tokens(T), k = torch::arange(T).remainder(E + 1).to(torch::kInt32);
  const Routing mixed = made->route(input_of(x, {.k = ActiveK(k)}, E));
  check_routing(mixed, T, E);
  for (int64_t own = 1; own <= E; ++own) {
    const Routing uniform = made->route(input_of(x, {.k = own}, E));
    for (int64_t t = 0; t < T; ++t) {
      if (k[t].item<int64_t>() != own) continue;
      EXPECT_TRUE(torch::equal(mixed.expert[t].narrow(0, 0, own), uniform.expert[t])) << t;
      EXPECT_TRUE(torch::allclose(mixed.weight[t].narrow(0, 0, own), uniform.weight[t], 0, 1e-6)) << t;
    }
  }
  EXPECT_TRUE(mixed.expert.masked_select(k.eq(0).unsqueeze(1)).eq(-1).all().item<bool>());
}

TEST_P(RouterContract, TheDialTouchesNoWeight) {
  const auto made = router(6);
  std::vector<at::Tensor> before;
  for (const at::Tensor& parameter : made->parameters()) before.push_back(parameter.detach().clone());
  const RouteInput input = input_of(router_tokens(20), some_value(6), 6);
  const Routing first = made->route(input);
  for (const DialValue& value : dial_values(traits().dial, 6)) made->route(input_of(router_tokens(20), value, 6));
  for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(same_bits(made->parameters()[i], before[i]));
  // The same input, stream included, has the same answer.
  const Routing again = made->route(input);
  EXPECT_TRUE(same_bits(first.expert, again.expert));
  EXPECT_TRUE(same_bits(first.weight, again.weight));
}

TEST_P(RouterContract, TheStreamMattersAtEvaluationWhereItSaysSo) {
  const auto made = router(8);
  RouteInput input = input_of(router_tokens(40), dial_values(traits().dial, 8).front(), 8);
  const at::Tensor one = dense_weights(made->route(input), 8);
  input.random = RandomStream(6);
  EXPECT_EQ(!torch::equal(one, dense_weights(made->route(input), 8)), traits().random_at_evaluation);
}

TEST_P(RouterContract, ASeedIsARouter) {
  const auto answer = [&](uint64_t seed) {
    return router(8, seed)->route(input_of(router_tokens(30), some_value(8), 8));
  };
  EXPECT_TRUE(same_bits(answer(1).weight, answer(1).weight));
  EXPECT_TRUE(same_bits(answer(1).expert, answer(1).expert));
  const auto one = router(8, 1), other = router(8, 2);
  if (one->parameters().empty()) return;
  EXPECT_FALSE(torch::equal(one->parameters()[0], other->parameters()[0]));
}

TEST_P(RouterContract, IsInItsFile) {
  const TempFolder folder;
  const auto made = router(6, 1), other = router(6, 2);
  const RouteInput input = input_of(router_tokens(30), some_value(6), 6);
  save_tensors(folder / "router.safetensors", named_tensors(*made), {});
  const std::string file = (folder / "router.safetensors").string();
  copy_tensors(load_tensors(file), named_tensors(*other), file);
  const Routing want = made->route(input), got = other->route(input);
  EXPECT_TRUE(same_bits(want.expert, got.expert));
  EXPECT_TRUE(same_bits(want.weight, got.weight));
}

TEST_P(RouterContract, IsInItsRecipe) {
  if (GetParam() == cycle_kind().name) GTEST_SKIP() << "an example is in no table";
  Recipe recipe;
  recipe.moe.router = GetParam();
  const std::string text = to_toml(recipe.fields());
  Recipe read;
  read_toml(read.fields(), text, "recipe");
  EXPECT_EQ(to_toml(read.fields()), text);
  read.check();
  // Other kinds' settings are neither written nor taken.
  for (const RouterKind& other : router_kinds()) {
    const bool own = other.name == GetParam();
    EXPECT_TRUE(own || text.find("[moe." + other.name + "]") == std::string::npos) << other.name;
  }
  // The published system is a recipe too.
  for (const std::string& setting : kind().published) set_field(read.fields(), setting);
  read.check();
}

TEST_P(RouterContract, Gradients) {
  const auto made = router(4);
  made->to(torch::kFloat64);
  const at::Tensor x = router_tokens(5).to(torch::kFloat64).set_requires_grad(true);
  const at::Tensor state = input_of(x, some_value(4), 4).state;
  for (const DialValue& value : dial_values(traits().dial, 4)) {
    for (const bool training : {false, true}) {
      SCOPED_TRACE(text_of(value) + (training ? ", training" : ""));
      // The weights, what losses are made of, and the kind's own terms.
      const auto answer = [&] {
        RouteInput input = input_of(x, value, 4);
        input.training = training;
        input.state = state;
        const Routing routing = made->route(input);
        std::vector<at::Tensor> parts = {routing.weight.flatten()};
        if (traits().state) parts.push_back(routing.state.flatten());
        for (const NamedLoss& loss : told(routing, 4, {}, losses()).losses) parts.push_back(loss.value.view({1}));
        return torch::cat(parts);
      };
      if (!answer().requires_grad()) continue;
      std::vector<testing::NamedInput> inputs = {{"x", x}};
      if (traits().state) inputs.emplace_back("state", state);
      for (const auto& parameter : made->named_parameters()) {
        // At evaluation what only shapes the noise has no part.
        const bool used = training || parameter.key() != "noise_weight";
        if (parameter.value().requires_grad() && used) inputs.emplace_back(parameter.key(), parameter.value());
      }
      gradcheck(answer, inputs);
      if (HasFatalFailure()) return;
    }
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

}  // namespace
}  // namespace smoe
