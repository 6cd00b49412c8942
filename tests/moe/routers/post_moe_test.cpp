#include "smoe/base/error.h"
#include "smoe/moe/moe_layer.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/mixture_case.h"
#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::dense_weights;
using testing::make_router;
using testing::router_config;
using testing::router_input;
using testing::router_tokens;
using testing::same_bits;

/// Tokens in training, token t of the family families[t].
RouteInput training_input(const at::Tensor& x, const ActiveK& k, const at::Tensor& families) {
  RouteInput input = router_input(x, {.k = k});
  input.training = true;
  input.batch.tags[kFamilyTag] = families;
  return input;
}

/// bool [T, E]: which experts each token takes.
at::Tensor taken(const Routing& routing, int64_t experts) {
  at::Tensor out = torch::zeros({routing.expert.size(0), experts + 1}, torch::kBool);
  out.scatter_(1, routing.expert.to(torch::kInt64).add(1), true);
  return out.narrow(1, 1, experts);
}

TEST(PostMoe, TheLanguagesExpertTakesTheLastPlace) {
  MoeConfig config = router_config("post_moe", golden::kExperts);
  const at::Tensor families = torch::arange(golden::kTokens) - 1;
  RouteInput input = training_input(testing::golden_tokens(), 2, families);
  const at::Tensor shares = dense_weights(testing::golden_router(config)->route(input), golden::kExperts);
  config.routers.post_moe.renormalize = false;
  const Routing routing = testing::golden_router(config)->route(input);
  testing::expect_golden(routing, golden::kPostMoe2);
  const at::Tensor weights = dense_weights(routing, golden::kExperts);
  EXPECT_TRUE(torch::allclose(shares, weights / weights.sum(-1, /*keepdim=*/true), 1e-12, 0));
}

TEST(PostMoe, InTrainingEveryTokenHasItsOwnExpert) {
  const auto router = make_router("post_moe", 6);
  const at::Tensor x = router_tokens(200), families = torch::arange(200).remainder(6);
  for (const int64_t k : {1, 2, 5, 6}) {
    const Routing routing = router->route(training_input(x, k, families));
    EXPECT_TRUE(taken(routing, 6).gather(1, families.unsqueeze(1)).all().item<bool>()) << k;
    EXPECT_TRUE(taken(routing, 6).sum(-1).eq(k).all().item<bool>()) << k;
    EXPECT_TRUE(torch::allclose(routing.weight.sum(-1), torch::ones({200}), 0, 1e-6)) << k;
  }
}

TEST(PostMoe, OtherLanguagesChangeTheForcedPlaceAlone) {
  const auto router = make_router("post_moe", 6);
  const at::Tensor x = router_tokens(200), families = torch::arange(200).remainder(6);
  const Routing one = router->route(training_input(x, 3, families));
  const Routing other = router->route(training_input(x, 3, families.add(1).remainder(6)));
  EXPECT_TRUE(torch::equal(one.expert.narrow(1, 0, 2), other.expert.narrow(1, 0, 2)));
  EXPECT_FALSE(torch::equal(one.expert, other.expert));
  RouteInput free = router_input(x, {.k = 3});
  const Routing plain = router->route(free);
  EXPECT_TRUE(torch::equal(one.expert.narrow(1, 0, 2), plain.expert.narrow(1, 0, 2)));
  // Where a token takes its own expert by itself, nothing is forced.
  const at::Tensor own = taken(plain, 6).gather(1, families.unsqueeze(1)).squeeze(1);
  ASSERT_TRUE(own.any().item<bool>() && !own.all().item<bool>());
  EXPECT_TRUE(torch::equal(one.expert.index({own}), plain.expert.index({own})));
  EXPECT_TRUE(torch::equal(one.expert.index({~own}).select(1, 2), families.index({~own}).to(torch::kInt32)));
}

TEST(PostMoe, AtEvaluationNoLanguageIsAskedFor) {
  const auto router = make_router("post_moe", 6);
  RouteInput input = router_input(router_tokens(50), {.k = 2});
  const Routing want = router->route(input);
  for (const int64_t family : {-1, 0, 5}) {
    input.batch.tags[kFamilyTag] = torch::full({50}, family, torch::kInt64);
    const Routing got = router->route(input);
    EXPECT_TRUE(same_bits(got.expert, want.expert));
    EXPECT_TRUE(same_bits(got.weight, want.weight));
  }
}

TEST(PostMoe, WithoutLabelsItIsTopK) {
  MoeConfig config = router_config("post_moe", 6), plain = config;
  plain.router = "learned";
  plain.routers.learned.score = "softmax";
  const at::Tensor x = router_tokens(40), none = torch::full({40}, -1, torch::kInt64);
  for (const bool renormalize : {false, true}) {
    config.routers.post_moe.renormalize = plain.routers.learned.renormalize = renormalize;
    for (const int64_t k : {1, 3, 6}) {
      const Routing want = make_router(plain)->route(router_input(x, {.k = k}));
      const Routing got = make_router(config)->route(training_input(x, k, none));
      EXPECT_TRUE(same_bits(want.expert, got.expert)) << k;
      EXPECT_TRUE(same_bits(want.weight, got.weight)) << k;
    }
  }
}

TEST(PostMoe, KPerTokenForcesTheLastOfEachTokensPlaces) {
  const auto router = make_router("post_moe", 5);
  const at::Tensor k = torch::arange(60).remainder(6).to(torch::kInt32), families = torch::arange(60).remainder(5);
  const Routing routing = router->route(training_input(router_tokens(60), ActiveK(k), families));
  EXPECT_TRUE(torch::equal(taken(routing, 5).sum(-1).to(torch::kInt32), k)) << "a token of no experts stays so";
  const at::Tensor own = taken(routing, 5).gather(1, families.unsqueeze(1)).squeeze(1);
  EXPECT_TRUE(torch::equal(own, k.gt(0)));
}

TEST(PostMoe, TheForcedExpertLearns) {
  // Its weight has a gradient though it was not among the largest.
  const auto router = make_router("post_moe", 6);
  const at::Tensor x = router_tokens(1);
  const int64_t least = router->route(router_input(x, {.k = 6})).probabilities.value.argmin(-1).item<int64_t>();
  const Routing routing = router->route(training_input(x, 2, torch::tensor({least}, torch::kInt64)));
  dense_weights(routing, 6)[0][least].backward();
  const at::Tensor gradient = router->named_parameters()["weight"].grad()[least];
  EXPECT_GT(gradient.abs().sum().item<double>(), 0);
  EXPECT_GT(gradient.dot(x[0]).item<double>(), 0) << "more of it comes of a larger logit";
}

TEST(PostMoe, RefusesTagsThatFitNoToken) {
  const auto router = make_router("post_moe", 4);
  const at::Tensor x = router_tokens(3);
  const auto refusal = [&](const at::Tensor& families) {
    return message_of([&] { router->route(training_input(x, 2, families)); });
  };
  EXPECT_EQ(refusal(torch::zeros({2}, torch::kInt64)), "the tag 'family' must be [T = 3], got [2]");
  EXPECT_EQ(refusal(torch::tensor({0, 4, 1}, torch::kInt64)), "the tag 'family' names an expert past 3, the last of 4");
  EXPECT_EQ(router->route(training_input(router_tokens(0), 2, torch::zeros({0}, torch::kInt64))).expert.size(0), 0);
}

}  // namespace
}  // namespace smoe
