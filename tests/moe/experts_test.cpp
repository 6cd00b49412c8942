#include "smoe/moe/experts.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "smoe/kernels/moe_mlp.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using testing::same_bits;

std::shared_ptr<ExpertGroup> group_of(int64_t count, uint64_t seed, const std::string& kind = "ffn") {
  MoeConfig config;
  config.expert_width = 6;
  const auto group = find_expert_kind(kind).make(config, count, /*width=*/5, /*init_std=*/0.5, RandomStream(seed));
  group->to(torch::kFloat64);
  const torch::NoGradGuard no_grad;
  for (const auto& parameter : group->named_parameters()) {  // biases that are not zero
    if (parameter.key()[0] == 'b') RandomStream(seed).at(parameter.key()).fill_normal(parameter.value(), 0, 1);
  }
  return group;
}

Routing routing_of(int64_t tokens, int64_t experts, int64_t k) {
  at::Tensor scores = torch::empty({tokens, experts}, torch::kFloat64);
  RandomStream(77).fill_normal(scores, 0, 1);
  const auto [score, expert] = scores.topk(k, -1);
  Routing routing;
  routing.expert = expert.to(torch::kInt32);
  routing.weight = torch::softmax(score, -1);
  routing.expert[1][0] = -1;
  routing.weight[1][0] = 0;
  return routing;
}

at::Tensor tokens_of(int64_t count) {
  at::Tensor x = torch::empty({count, 5}, torch::kFloat64);
  RandomStream(78).fill_normal(x, 0, 1);
  return x;
}

TEST(Experts, EveryKindDeclaresItsCost) {
  for (const ExpertKind& kind : expert_kinds()) {
    EXPECT_FALSE(kind.summary.empty());
    const auto group = group_of(3, 1, kind.name);
    EXPECT_EQ(group->size(), 3);
    EXPECT_GE(group->flops_per_row(), 0);
    int64_t parameters = 0;
    for (const at::Tensor& parameter : group->parameters()) parameters += parameter.numel();
    EXPECT_EQ(group->parameters_per_expert() * 3, parameters) << kind.name;
    const Routing routing = routing_of(9, 3, 2);
    EXPECT_EQ(group->mix(tokens_of(9), routing.expert, routing.weight, {}).sizes(), at::IntArrayRef({9, 5}));
    const at::Tensor nobody = torch::full({9, 2}, -1, torch::kInt32);
    EXPECT_TRUE(group->mix(tokens_of(9), nobody, routing.weight, {}).eq(0).all().item<bool>()) << kind.name;
  }
  EXPECT_NE(message_of([] { find_expert_kind("fnn"); }).find("did you mean 'ffn'?"), std::string::npos);
}

TEST(Experts, FfnCostsTwoMatrices) {
  const auto group = group_of(3, 1);
  EXPECT_EQ(group->flops_per_row(), 2 * 2 * 5 * 6);
  EXPECT_EQ(group->parameters_per_expert(), 5 * 6 + 6 + 6 * 5 + 5);
}

TEST(Experts, FfnIsDrawnFromItsStream) {
  MoeConfig config;
  config.expert_width = 64;
  const auto make = [&](uint64_t seed) {
    return find_expert_kind("ffn").make(config, 4, 32, 0.02, RandomStream(seed));
  };
  const auto group = make(1);
  const auto parameters = group->named_parameters();
  EXPECT_EQ(parameters["w1"].sizes(), at::IntArrayRef({4, 64, 32}));
  EXPECT_EQ(parameters["w2"].sizes(), at::IntArrayRef({4, 32, 64}));
  for (const char* name : {"w1", "w2"}) {
    EXPECT_NEAR(parameters[name].std().item<double>(), 0.02, 0.001) << name;
    EXPECT_TRUE(same_bits(parameters[name], make(1)->named_parameters()[name]));
    EXPECT_FALSE(same_bits(parameters[name], make(2)->named_parameters()[name]));
  }
  EXPECT_FALSE(torch::equal(parameters["w1"].view({-1}), parameters["w2"].view({-1})));
  EXPECT_TRUE(parameters["b1"].eq(0).all().item<bool>() && parameters["b2"].eq(0).all().item<bool>());
  for (const at::Tensor& parameter : group->parameters()) EXPECT_TRUE(parameter.requires_grad());
}

TEST(Experts, TwoGroupsEqualOneOfTheirWeightsSideBySide) {
  const auto first = group_of(3, 1), second = group_of(4, 2);
  Experts two({first, second});
  EXPECT_EQ(two.size(), 7);
  const auto a = first->named_parameters(), b = second->named_parameters();
  const auto both = [&](const char* name) { return torch::cat({a[name], b[name]}); };
  const MlpWeights weights{both("w1"), both("b1"), both("w2"), both("b2")};
  for (const int64_t k : {1, 3, 7}) {
    const at::Tensor x = tokens_of(40);
    const Routing routing = routing_of(40, 7, k);
    const at::Tensor want = moe_mlp(x, routing.expert, routing.weight, weights, Activation::kRelu, 0, 0);
    EXPECT_TRUE(torch::allclose(two.mix(x, routing, {}), want, 1e-12, 1e-12)) << k;
  }
}

TEST(Experts, GroupsDrawDropoutOfTheirOwn) {
  // Two groups of the same weights: a token's expert 0 and expert 1 would give the same if their masks were the same.
  Experts two({group_of(1, 1), group_of(1, 1)});
  Routing routing;
  routing.expert = torch::tensor({{0}, {1}}, torch::kInt32).repeat({10, 1});
  routing.weight = torch::ones({20, 1}, torch::kFloat64);
  const at::Tensor x = torch::ones({20, 5}, torch::kFloat64);
  const MixOptions options{.dropout = 0.5, .dropout_key = 3};
  const at::Tensor y = two.mix(x, routing, options);
  EXPECT_TRUE(same_bits(y, two.mix(x, routing, options)));
  Routing swapped = routing;
  swapped.expert = 1 - routing.expert;
  EXPECT_FALSE(torch::allclose(y, two.mix(x, swapped, options)));
  EXPECT_TRUE(torch::allclose(two.mix(x, routing, {}), two.mix(x, swapped, {})));
}

TEST(Experts, Bf16GivesTheTypeOfItsInput) {
  const auto group = group_of(3, 1);
  group->to(torch::kFloat32);
  Experts experts({group});
  const at::Tensor x = tokens_of(20).to(torch::kFloat32);
  Routing routing = routing_of(20, 3, 2);
  routing.weight = routing.weight.to(torch::kFloat32);
  const at::Tensor full = experts.mix(x, routing, {});
  const at::Tensor half = experts.mix(x, routing, {.precision = Precision::kBf16});
  EXPECT_EQ(half.scalar_type(), torch::kFloat32);
  EXPECT_FALSE(torch::equal(full, half));
  EXPECT_LT((full - half).norm().item<double>(), 0.02 * full.norm().item<double>());
}

TEST(Experts, ParametersAreNamedByGroup) {
  Experts two({group_of(1, 1), group_of(2, 2)});
  std::vector<std::string> names;
  for (const auto& parameter : two.named_parameters()) names.push_back(parameter.key());
  EXPECT_EQ(names, (std::vector<std::string>{"0.w1", "0.b1", "0.w2", "0.b2", "1.w1", "1.b1", "1.w2", "1.b2"}));
  EXPECT_THROW(Experts({}), UserError);
}

}  // namespace
}  // namespace smoe
