// The layer's five steps: route, limit, mix, shared experts, record.
#include "smoe/moe/moe_layer.h"

#include <gtest/gtest.h>

#include "smoe/kernels/moe_mlp.h"
#include "smoe/moe/limit.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using testing::same_bits;

constexpr int64_t kWidth = 10;

MoeConfig small_config() {
  MoeConfig config;
  config.experts = 5;
  config.expert_width = 7;
  config.router_init_std = 1;
  return config;
}

std::shared_ptr<MoeLayer> layer_of(const MoeConfig& config, at::ScalarType type = at::kDouble, uint64_t seed = 4) {
  const auto layer = std::make_shared<MoeLayer>(config, kWidth, /*init_std=*/0.5, RandomStream(seed));
  layer->to(type);
  return layer;
}

RouteInput input_of(int64_t tokens, const ActiveK& k, at::ScalarType type = at::kDouble) {
  RouteInput input;
  input.x = torch::empty({tokens, kWidth}, torch::kFloat64);
  RandomStream(8).fill_normal(input.x, 0, 1);
  input.x = input.x.to(type);
  input.k = k;
  return input;
}

at::Tensor run(MoeLayer& layer, const RouteInput& input) { return layer.forward(input, {}, nullptr, 0).y; }

MlpWeights weights_of(MoeLayer& layer, const std::string& group) {
  const auto p = layer.named_parameters();
  return {p[group + ".w1"], p[group + ".b1"], p[group + ".w2"], p[group + ".b2"]};
}

/// A router that answers what it was told to.
class TableRouter : public Router {
 public:
  explicit TableRouter(Routing answer) : answer_(std::move(answer)) {}
  Routing route(const RouteInput&) override { return answer_; }
  RouterTraits traits() const override { return {}; }
  int64_t flops_per_token() const override { return 0; }

 private:
  Routing answer_;
};

TEST(MoeLayer, EveryExpertOnIsTheDenseMixture) {
  const auto layer = layer_of(small_config());
  const RouteInput input = input_of(30, 5);
  const auto p = layer->named_parameters();
  const at::Tensor gate = torch::softmax(torch::linear(input.x, p["router.weight"], p["router.bias"]), -1);
  const MlpWeights w = weights_of(*layer, "experts.0");
  at::Tensor want = torch::zeros_like(input.x);
  for (int64_t e = 0; e < 5; ++e) {
    const at::Tensor hidden = torch::relu(torch::linear(input.x, w.w1[e], w.b1[e]));
    want = want + gate.select(1, e).unsqueeze(1) * torch::linear(hidden, w.w2[e], w.b2[e]);
  }
  EXPECT_TRUE(torch::allclose(run(*layer, input), want, 1e-12, 1e-12));
}

TEST(MoeLayer, KPerTokenEqualsUniformKRowByRow) {
  const auto layer = layer_of(small_config(), at::kFloat);
  const at::Tensor k = torch::arange(40).remainder(6).to(torch::kInt32);
  const at::Tensor mixed = run(*layer, input_of(40, ActiveK(k), at::kFloat));
  for (int64_t own = 1; own <= 5; ++own) {
    const at::Tensor uniform = run(*layer, input_of(40, own, at::kFloat));
    const at::Tensor of_own = k.eq(own).unsqueeze(1);
    EXPECT_TRUE(torch::allclose(mixed.masked_select(of_own), uniform.masked_select(of_own), 1e-5, 1e-6)) << own;
  }
  EXPECT_TRUE(mixed.masked_select(k.eq(0).unsqueeze(1)).eq(0).all().item<bool>());
}

TEST(MoeLayer, ARowsBitsDoNotDependOnTheOtherRows) {
  const torch::NoGradGuard no_grad;
  for (const auto type : {at::kFloat, at::kDouble}) {
    MoeConfig config = small_config();
    config.shared_experts = 2;
    const auto layer = layer_of(config, type);
    for (const int64_t k : {1, 3, 5}) {
      const RouteInput whole = input_of(70, k, type);
      const at::Tensor y = run(*layer, whole);
      for (const int64_t count : {1, 2, 15, 16, 33, 69}) {
        RouteInput part = whole;
        part.x = whole.x.narrow(0, 70 - count, count);
        EXPECT_TRUE(same_bits(run(*layer, part), y.narrow(0, 70 - count, count))) << k << " " << count << " " << type;
      }
    }
  }
}

TEST(MoeLayer, TheDialTouchesNoWeight) {
  const auto layer = layer_of(small_config());
  std::vector<at::Tensor> before;
  for (const at::Tensor& parameter : layer->parameters()) before.push_back(parameter.detach().clone());
  const at::Tensor first = run(*layer, input_of(20, 2));
  for (const int64_t k : {5, 1, 4}) run(*layer, input_of(20, k));
  EXPECT_TRUE(same_bits(run(*layer, input_of(20, 2)), first));
  for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(same_bits(layer->parameters()[i], before[i]));
}

TEST(MoeLayer, SharedExpertsAreAdded) {
  MoeConfig config = small_config();
  const at::Tensor routed = run(*layer_of(config), input_of(12, 2));
  config.shared_experts = 2;
  const auto layer = layer_of(config);
  const RouteInput input = input_of(12, 2);
  const MlpWeights w = weights_of(*layer, "shared");
  ASSERT_EQ(w.w1.sizes(), at::IntArrayRef({2, 7, 10}));
  at::Tensor want = routed;
  for (int64_t e = 0; e < 2; ++e) {
    want = want + torch::linear(torch::relu(torch::linear(input.x, w.w1[e], w.b1[e])), w.w2[e], w.b2[e]);
  }
  EXPECT_TRUE(torch::allclose(run(*layer, input), want, 1e-12, 1e-12));
}

TEST(MoeLayer, SharedExpertsMayHaveAWidthOfTheirOwn) {
  // A dense block beside the mixture, whatever the width of its experts.
  MoeConfig config = small_config();
  const at::Tensor routed = run(*layer_of(config), input_of(12, 2));
  config.shared_experts = 1;
  config.shared_width = 13;
  const auto layer = layer_of(config);
  const RouteInput input = input_of(12, 2);
  const MlpWeights w = weights_of(*layer, "shared");
  ASSERT_EQ(w.w1.sizes(), at::IntArrayRef({1, 13, 10}));
  const at::Tensor dense = torch::linear(torch::relu(torch::linear(input.x, w.w1[0], w.b1[0])), w.w2[0], w.b2[0]);
  EXPECT_TRUE(torch::allclose(run(*layer, input), routed + dense, 1e-12, 1e-12));
  EXPECT_EQ(layer->flops_per_token(0.0), 2 * kWidth * 5 + 4 * kWidth * 13);
}

TEST(MoeLayer, FinerExpertsCostWhatCoarserOnesDo) {
  // DeepSeekMoE: N experts cut into m N, m K of them active and s of those always on; matrices cost the same for any m.
  const auto cost = [](int64_t m, int64_t shared) {
    MoeConfig config;
    config.experts = 8 * m - shared;
    config.expert_width = 48 / m;
    config.shared_experts = shared;
    const MoeLayer layer(config, 16, 0.02, RandomStream(1));
    const double active = static_cast<double>(2 * m - shared);
    int64_t weights = 0;
    for (const auto& parameter : layer.named_parameters()) {
      if (parameter.key().ends_with(".w1") || parameter.key().ends_with(".w2")) weights += parameter.value().numel();
    }
    return std::pair(weights, layer.flops_per_token(active) - static_cast<double>(layer.router().flops_per_token()));
  };
  const auto coarse = cost(1, 0);
  EXPECT_EQ(coarse.first, 8 * 2 * 48 * 16);
  EXPECT_DOUBLE_EQ(coarse.second, 2 * 4 * 48 * 16);
  for (const auto& [m, shared] : {std::pair<int64_t, int64_t>{2, 1}, {4, 0}, {4, 1}, {4, 3}, {8, 2}}) {
    EXPECT_EQ(cost(m, shared), coarse) << m << " " << shared;
  }
}

TEST(MoeLayer, SharedExpertsAreOutsideStatistics) {
  MoeConfig config = small_config();
  config.shared_experts = 2;
  StatsBook book(StatsBook::Detail::kTerms);
  layer_of(config)->forward(input_of(12, 2), {}, &book, 0);
  EXPECT_EQ(book.layers()[0].count.numel(), 5);
  EXPECT_EQ(book.layers()[0].count.sum().item<double>(), 24);
  EXPECT_EQ(book.terms().at(0).probability.numel(), 5);
}

TEST(MoeLayer, CapacityDropsAndStatisticsAreOfBefore) {
  MoeConfig config = small_config();
  config.capacity_factor = 0.5;
  const auto layer = layer_of(config);
  const RouteInput input = input_of(40, 2);
  StatsBook book;
  const at::Tensor y = layer->forward(input, {}, &book, 3).y;

  const Routing routing = layer->router().route(input);
  const Limited limited = limit_by_position(routing, 5, 8);  // ⌈0.5 · 40 · 2 / 5⌉
  ASSERT_GT(limited.dropped.sum().item<int64_t>(), 0);
  const at::Tensor want = moe_mlp(input.x, limited.routing.expert, limited.routing.weight,
                                  weights_of(*layer, "experts.0"), Activation::kRelu, 0, 0);
  EXPECT_TRUE(torch::allclose(y, want, 1e-12, 1e-12));

  ASSERT_EQ(book.layers().size(), 1u);
  const LayerStats stats = book.layers()[0];
  EXPECT_EQ(stats.count.sum().item<double>(), 80);  // before limit
  EXPECT_TRUE(torch::equal(stats.dropped, limited.dropped.to(torch::kFloat64)));
  EXPECT_DOUBLE_EQ(stats.mean_active_experts(), (80 - limited.dropped.sum().item<double>()) / 40);
}

TEST(MoeLayer, CapacityMayBeAnotherAtEvaluation) {
  MoeConfig config = small_config();
  config.capacity_factor = 0.25;
  config.eval_capacity_factor = 5;  // E: no expert can be over it
  const auto layer = layer_of(config);
  const auto dropped = [&](bool training) {
    RouteInput input = input_of(40, 2);
    input.training = training;
    StatsBook book;
    layer->forward(input, {}, &book, 0);
    return book.layers()[0].dropped.sum().item<double>();
  };
  EXPECT_GT(dropped(true), 0);
  EXPECT_EQ(dropped(false), 0);
  config.eval_capacity_factor = 0;
  const auto same = layer_of(config);
  StatsBook book;
  same->forward(input_of(40, 2), {}, &book, 0);
  EXPECT_EQ(book.layers()[0].dropped.sum().item<double>(), dropped(true));
}

TEST(MoeLayer, WhomCapacityDropsIsASetting) {
  MoeConfig config = small_config();
  config.capacity_factor = 0.5;
  const auto output = [&](const std::string& priority) {
    config.drop_priority = priority;
    return run(*layer_of(config), input_of(40, 2));
  };
  EXPECT_FALSE(torch::allclose(output("position"), output("score")));
  EXPECT_FALSE(torch::allclose(output("position"), output("choice")));
}

TEST(MoeLayer, PaddingTakesNoCapacityAndNoStatistics) {
  MoeConfig config = small_config();
  config.capacity_factor = 0.5;
  const auto layer = layer_of(config);
  RouteInput input = input_of(40, 2);
  input.batch.valid = torch::arange(40).ge(20);
  StatsBook book;
  const at::Tensor y = layer->forward(input, {}, &book, 0).y;
  const Routing routing = layer->router().route(input);
  const Limited limited = limit_by_position(routing, 5, 8, input.batch.valid);
  const at::Tensor want = moe_mlp(input.x, limited.routing.expert, limited.routing.weight,
                                  weights_of(*layer, "experts.0"), Activation::kRelu, 0, 0);
  EXPECT_TRUE(torch::allclose(y, want, 1e-12, 1e-12));
  const LayerStats stats = book.layers()[0];
  EXPECT_EQ(stats.tokens, 20);
  EXPECT_EQ(stats.count.sum().item<double>(), 40);
  EXPECT_EQ(stats.count.sum().item<double>() - stats.dropped.sum().item<double>(),
            limited.routing.expert.ge(0).sum().item<double>());
}

TEST(MoeLayer, StatePassesAndARouterCanBeReplaced) {
  const auto layer = layer_of(small_config());
  Routing answer;
  answer.expert = torch::tensor({{4}, {-1}, {0}}, torch::kInt32);
  answer.weight = torch::tensor({{2.0}, {0.0}, {-1.0}}, torch::kFloat64);
  answer.state = torch::rand({3, 6});
  layer->set_router(std::make_shared<TableRouter>(answer));
  const RouteInput input = input_of(3, 1);
  StatsBook book;
  const MoeLayer::Result result = layer->forward(input, {}, &book, 0);
  EXPECT_TRUE(result.state.is_same(answer.state));
  const at::Tensor want =
      moe_mlp(input.x, answer.expert, answer.weight, weights_of(*layer, "experts.0"), Activation::kRelu, 0, 0);
  EXPECT_TRUE(torch::equal(result.y, want));
  EXPECT_TRUE(result.y[1].eq(0).all().item<bool>());
  EXPECT_EQ(book.layers()[0].count.sum().item<double>(), 2);
  EXPECT_TRUE(layer->named_parameters().find("router.weight") == nullptr);
}

TEST(MoeLayer, DropoutIsAFunctionOfItsKey) {
  MoeConfig config = small_config();
  config.shared_experts = 1;
  const auto layer = layer_of(config);
  const auto with = [&](double p, uint64_t key) {
    return layer->forward(input_of(20, 2), {.dropout = p, .dropout_key = key}, nullptr, 0).y;
  };
  EXPECT_TRUE(same_bits(with(0.5, 1), with(0.5, 1)));
  EXPECT_FALSE(torch::allclose(with(0.5, 1), with(0.5, 2)));
  EXPECT_TRUE(same_bits(with(0, 1), with(0, 2)));
}

TEST(MoeLayer, Gradients) {
  MoeConfig config = small_config();
  config.shared_experts = 1;
  config.expert_width = 3;
  config.capacity_factor = 0.8;
  const auto layer = layer_of(config);
  for (const auto& k : {ActiveK(1), ActiveK(2), ActiveK(5), ActiveK(torch::tensor({0, 5, 2, 1}, torch::kInt32))}) {
    const RouteInput input = input_of(4, k);
    std::vector<testing::NamedInput> inputs = {{"x", input.x}};
    for (const auto& parameter : layer->named_parameters()) {
      if (parameter.value().requires_grad()) inputs.emplace_back(parameter.key(), parameter.value());
    }
    testing::gradcheck([&] { return run(*layer, input); }, inputs);
    if (HasFatalFailure()) return;
    EXPECT_FALSE(layer->named_parameters()["router.weight"].grad().defined());
  }
}

TEST(MoeLayer, CapacityFollowsTheShareOfNetworks) {
  MoeConfig config = small_config();
  config.null_experts = 2;
  config.capacity_factor = 1;
  config.network_share = 0.1;
  const auto layer = layer_of(config);
  const RouteInput input = input_of(40, 2);
  StatsBook book;
  layer->forward(input, {}, &book, 0);
  const LayerStats stats = book.layers()[0];
  const at::Tensor kept = stats.count - stats.dropped;
  EXPECT_LE(kept.narrow(0, 0, 3).max().item<double>(), 4);  // ⌈80 · 0.1 / 2.3⌉
  EXPECT_GT(kept.narrow(0, 3, 2).max().item<double>(), 4);  // ⌈80 · 1 / 2.3⌉ = 35
  EXPECT_GT(stats.dropped.sum().item<double>(), 0);
}

TEST(MoeLayer, CostsAreThoseOfTheExpertsThatWereTaken) {
  MoeConfig config = small_config();
  config.null_experts = 1;
  config.constant_experts = 1;
  const auto layer = layer_of(config);
  LayerStats stats;
  stats.count = torch::tensor({6.0, 0.0, 3.0, 50.0, 4.0}, torch::kFloat64);
  stats.dropped = torch::tensor({1.0, 0.0, 0.0, 0.0, 0.0}, torch::kFloat64);
  stats.tokens = 4;
  const double router = 2 * kWidth * 5, network = 4 * kWidth * 7, constant = 8 * kWidth;
  EXPECT_DOUBLE_EQ(layer->flops_per_token(ActiveExperts(stats)), router + 2 * network + constant);
  EXPECT_DOUBLE_EQ(layer->active_networks(ActiveExperts(stats)), 2);
  EXPECT_DOUBLE_EQ(layer->active_parameters(ActiveExperts(stats)),
                   6 * kWidth - kWidth + 5 + 2 * (2 * kWidth * 7 + 7 + kWidth) + 3 * kWidth);
  // A plain number is spread over all.
  EXPECT_DOUBLE_EQ(layer->active_networks(2.5), 1.5);
  stats.tokens = 0;
  EXPECT_EQ(layer->active_networks(ActiveExperts(stats)), 0);
}

TEST(MoeLayer, NoTokens) {
  const auto layer = layer_of(small_config());
  StatsBook book;
  EXPECT_EQ(layer->forward(input_of(0, 2), {}, &book, 0).y.sizes(), at::IntArrayRef({0, kWidth}));
  EXPECT_EQ(book.layers()[0].tokens, 0);
}

TEST(MoeLayer, CostsAsPublished) {
  // §1.7 and §5.3 at D 256, 16 × 512: router 4 112 parameters, an expert 262 912.
  MoeConfig config;
  const MoeLayer layer(config, 256, 0.02, RandomStream(1));
  int64_t all = 0;
  for (const at::Tensor& parameter : layer.parameters()) all += parameter.numel();
  EXPECT_EQ(all, 4206592 + 4112);
  EXPECT_DOUBLE_EQ(layer.active_parameters(1), 4112 + 262912);
  EXPECT_DOUBLE_EQ(layer.active_parameters(16), 4206592 + 4112);
  EXPECT_DOUBLE_EQ(layer.flops_per_token(8), 2 * 256 * 16 + 8 * 4 * 256 * 512);
}

TEST(MoeLayer, RefusesWhatIsNoRowOfTokens) {
  const auto layer = layer_of(small_config());
  RouteInput input = input_of(6, 2);
  input.x = input.x.view({2, 3, kWidth});
  EXPECT_NE(message_of([&] { run(*layer, input); }).find("[T, D], got [2, 3, 10]"), std::string::npos);
  EXPECT_THROW(run(*layer, input_of(6, 6)), UserError);
}

}  // namespace
}  // namespace smoe
