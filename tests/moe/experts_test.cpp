#include "smoe/moe/experts.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "smoe/kernels/moe_mlp.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"
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
    EXPECT_EQ(group->is_network(), kind.count == nullptr);
    Experts experts({group});
    EXPECT_EQ(experts.mix(tokens_of(9), routing, {}).sizes(), at::IntArrayRef({9, 5}));
    Routing nobody = routing;
    nobody.expert = torch::full({9, 2}, -1, torch::kInt32);
    EXPECT_TRUE(experts.mix(tokens_of(9), nobody, {}).eq(0).all().item<bool>()) << kind.name;
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

TEST(Experts, NullCopyAndConstantAreTheirFormulas) {
  const at::Tensor x = tokens_of(9);
  const Routing routing = routing_of(9, 3, 2);
  const auto mixed = [&](const std::string& kind) { return Experts({group_of(3, 1, kind)}).mix(x, routing, {}); };
  EXPECT_TRUE(mixed("null").eq(0).all().item<bool>());
  EXPECT_TRUE(torch::allclose(mixed("copy"), routing.weight.sum(-1, true) * x, 1e-14, 1e-14));
  const auto p = group_of(3, 1, "constant")->named_parameters();
  at::Tensor want = torch::zeros_like(x);
  for (int64_t t = 0; t < 9; ++t) {
    for (int64_t s = 0; s < 2; ++s) {
      const int64_t e = routing.expert[t][s].item<int64_t>();
      if (e < 0) continue;
      const at::Tensor a = torch::softmax(torch::mv(p["score"][e], x[t]), 0);
      want[t] += routing.weight[t][s] * (a[0] * x[t] + a[1] * p["value"][e]);
    }
  }
  EXPECT_TRUE(torch::allclose(mixed("constant"), want, 1e-12, 1e-12));
}

TEST(Experts, KindsSideBySideAnswerEachForItsIds) {
  // A mixture of four kinds is the sum of what each kind makes of its own ids, and ids of a network stand first.
  const std::vector<std::string> kinds = {"ffn", "null", "copy", "constant"};
  std::vector<std::shared_ptr<ExpertGroup>> groups;
  for (size_t i = 0; i < kinds.size(); ++i) groups.push_back(group_of(2, i, kinds[i]));
  Experts experts(groups);
  ASSERT_EQ(experts.size(), 8);
  const at::Tensor x = tokens_of(40);
  const Routing routing = routing_of(40, 8, 5);
  at::Tensor want = torch::zeros_like(x);
  for (size_t i = 0; i < kinds.size(); ++i) {
    Routing own = routing;
    own.expert = routing.expert - static_cast<int>(2 * i);
    want = want + Experts({groups[i]}).mix(x, own, {});
  }
  EXPECT_TRUE(torch::allclose(experts.mix(x, routing, {}), want, 1e-12, 1e-12));
  // A row's bits are its own.
  const at::Tensor all = experts.mix(x, routing, {});
  for (const int64_t count : {1, 3, 16, 39}) {
    Routing part = routing;
    part.expert = routing.expert.narrow(0, 40 - count, count);
    part.weight = routing.weight.narrow(0, 40 - count, count);
    EXPECT_TRUE(
        same_bits(experts.mix(x.narrow(0, 40 - count, count), part, {}), all.narrow(0, 40 - count, count).clone()))
        << count;
  }
}

TEST(Experts, GradientsOfKindsThatAreNoNetworks) {
  for (const std::string kind : {"copy", "constant"}) {
    SCOPED_TRACE(kind);
    const auto group = group_of(3, 1, kind);
    const at::Tensor x = tokens_of(6);
    const Routing routing = routing_of(6, 3, 2);
    std::vector<testing::NamedInput> inputs = {{"x", x}, {"weight", routing.weight}};
    for (const auto& parameter : group->named_parameters()) inputs.emplace_back(parameter.key(), parameter.value());
    testing::gradcheck([&] { return group->mix(x, routing.expert, routing.weight, {}); }, inputs);
  }
}

TEST(Experts, NoTokensForAnyKind) {
  for (const ExpertKind& kind : expert_kinds()) {
    Routing routing;
    routing.expert = torch::zeros({0, 2}, torch::kInt32);
    routing.weight = torch::zeros({0, 2}, torch::kFloat64);
    EXPECT_EQ(Experts({group_of(3, 1, kind.name)}).mix(tokens_of(0), routing, {}).sizes(), at::IntArrayRef({0, 5}));
  }
}

TEST(Experts, ALayersGroupsAreItsNetworksAndThenTheOthers) {
  MoeConfig config;
  config.experts = 12;
  config.null_experts = 1;
  config.copy_experts = 2;
  config.constant_experts = 3;
  const auto groups = routed_experts(config, 5, 0.5, RandomStream(1));
  ASSERT_EQ(groups.size(), 4u);
  std::vector<int64_t> sizes;
  for (const auto& group : groups) sizes.push_back(group->size());
  EXPECT_EQ(sizes, (std::vector<int64_t>{6, 1, 2, 3}));
  EXPECT_EQ(groups[3]->flops_per_row(), 2 * (2 * 5 + 2 * 5));
  // Networks are drawn as if nothing stood beside them.
  MoeConfig alone;
  alone.experts = 6;
  EXPECT_TRUE(same_bits(groups[0]->named_parameters()["w1"],
                        routed_experts(alone, 5, 0.5, RandomStream(1))[0]->named_parameters()["w1"]));
}

TEST(Experts, CountsThatCannotBeAreRefused) {
  MoeConfig config;
  config.experts = 4;
  config.null_experts = 4;
  EXPECT_NE(message_of([&] { config.check(); }).find("moe.experts = 4 leaves no network"), std::string::npos);
  config.null_experts = 3;
  config.check();
  config.network_share = 0.5;
  config.check();
  config.null_experts = 0;
  EXPECT_NE(message_of([&] { config.check(); }).find("moe.network_share = 0.5 needs experts that are no networks"),
            std::string::npos);
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
