#include "smoe/models/transformer_xl.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/mixture_case.h"
#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::make_router;
using testing::router_config;
using testing::router_input;
using testing::router_tokens;
using testing::same_bits;
using testing::wave;

constexpr int64_t kWidth = 3;

MoeConfig config_of(bool detach = false) {
  MoeConfig config = router_config("rmoe", golden::kExperts);
  config.routers.rmoe.width = kWidth;
  config.routers.rmoe.detach = detach;
  return config;
}

/// Three layers, of which the second is dense, and a state of width 4.
ModelSpec spec_of(bool detach) {
  ModelSpec spec;
  spec.model = {.layers = 3, .width = 8, .heads = 2, .head_width = 4, .ffn_width = 8, .dropout = 0};
  spec.model.moe_layers = {.all = false, .ids = {0, 2}};
  spec.moe.router = "rmoe";
  spec.moe.experts = 4;
  spec.moe.expert_width = 8;
  spec.moe.router_init_std = 1;
  spec.moe.routers.rmoe = {.width = 4, .detach = detach};
  spec.vocabulary = 11;
  return spec;
}

at::Tensor tokens() { return (torch::arange(12).view({2, 6}) * 5).remainder(11); }

TEST(Rmoe, IsAGruThroughDepth) {
  const auto router = testing::golden_router(config_of(), /*below=*/1);
  const auto p = router->named_parameters();
  p["project"].set_data(wave(kWidth * golden::kWidth, 0.6, 0.1, 0.9).view({kWidth, golden::kWidth}));
  p["weight"].set_data(wave(golden::kExperts * kWidth, 1.7, 0.9, 2).view({golden::kExperts, kWidth}));
  p["gru.input_weight"].set_data(wave(9 * kWidth, 0.8, 0.3, 0.7).view({9, kWidth}));
  p["gru.state_weight"].set_data(wave(9 * kWidth, 1.9, 0.2, 0.6).view({9, kWidth}));
  p["gru.input_bias"].set_data(wave(kWidth, 1, 0.5, 0.3));
  p["gru.state_bias"].set_data(wave(kWidth, 1, 2.5, 0.3));
  RouteInput input = router_input(testing::golden_tokens(), {.k = 2});
  input.state = wave(golden::kTokens * kWidth, 0.9, 0.1, 0.5).view({golden::kTokens, kWidth});
  const Routing routing = router->route(input);
  testing::expect_golden(routing, golden::kRmoe2);
  const at::Tensor want =
      torch::tensor(std::vector<double>(std::begin(golden::kRmoeState), std::end(golden::kRmoeState)), torch::kFloat64);
  EXPECT_TRUE(torch::allclose(routing.state.flatten(), want, 1e-9, 1e-12)) << routing.state << want;
}

TEST(Rmoe, InTheLowestMixtureTheStateIsZero) {
  const auto lowest = make_router(config_of(), 9, RouterPlace(testing::kRouterWidth, 0));
  const auto above = make_router(config_of(), 9, RouterPlace(testing::kRouterWidth, 1));
  RouteInput input = router_input(router_tokens(20), {.k = 2});
  const Routing want = lowest->route(input);
  EXPECT_NE(message_of([&] { above->route(input); }).find("state of the mixture below, [20, 3]"), std::string::npos);
  input.state = torch::zeros({20, kWidth});
  EXPECT_TRUE(same_bits(above->route(input).weight, want.weight));
  EXPECT_EQ(lowest->flops_per_token(),
            2 * (kWidth * testing::kRouterWidth + golden::kExperts * kWidth + 6 * kWidth * kWidth));
}

TEST(Rmoe, WithAClosedGateLayersKnowNothingOfEachOther) {
  // Without what is made of the state, and with an update gate of 0, the state below has no part in the answer.
  const auto router = make_router(config_of(), 9, RouterPlace(testing::kRouterWidth, 1));
  const torch::NoGradGuard no_grad;
  const auto p = router->named_parameters();
  p["gru.state_weight"].zero_();
  p["project"].abs_();
  p["gru.input_weight"].narrow(0, kWidth, kWidth).fill_(-1e4);  // u = σ(−large), for the inputs below
  RouteInput input = router_input(router_tokens(20).abs(), {.k = 2});
  input.state = router_tokens(20, 2).narrow(1, 0, kWidth);
  const Routing one = router->route(input);
  input.state = router_tokens(20, 3).narrow(1, 0, kWidth);
  EXPECT_TRUE(torch::equal(router->route(input).state, one.state));
}

TEST(Rmoe, AModelHasOneGru) {
  TransformerXl model(spec_of(false), RandomStream(1));
  std::vector<std::string> names;
  for (const auto& parameter : model.named_parameters()) {
    if (parameter.key().find("router") != std::string::npos) names.push_back(parameter.key());
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names,
            (std::vector<std::string>{"layers.0.moe.router.project", "layers.0.moe.router.weight",
                                      "layers.2.moe.router.project", "layers.2.moe.router.weight", "router.input_bias",
                                      "router.input_weight", "router.state_bias", "router.state_weight"}));
  // Both mixtures use it: with it gone to zero, they route as chance has it in their own weights alone.
  Memory memory = model.empty_memory(2);
  const torch::NoGradGuard no_grad;
  for (const auto& parameter : model.named_parameters()) {
    if (parameter.key().starts_with("router.")) parameter.value().zero_();
  }
  StatsBook book;
  model.forward(tokens(), memory, {.k = 2, .book = &book});
  for (const LayerStats& layer : book.layers()) {
    EXPECT_TRUE(torch::allclose(layer.probability, torch::full({4}, 3.0, torch::kFloat64), 0, 1e-5))
        << layer.probability;
  }
}

TEST(Rmoe, TheGradientGoesThroughTheStateOrStopsThere) {
  // What the upper mixture's probabilities say reaches the lower one's projection through the state; past a dense layer.
  // Below its router the lower mixture must have no other way up, so its experts answer nothing.
  for (const bool detach : {false, true}) {
    TransformerXl model(spec_of(detach), RandomStream(1));
    const auto p = model.named_parameters();
    {
      const torch::NoGradGuard no_grad;
      for (const char* name : {"w2", "b2"}) p[concat("layers.0.moe.experts.0.", name)].zero_();
    }
    Memory memory = model.empty_memory(2);
    StatsBook book(StatsBook::Detail::kTerms);
    model.forward(tokens(), memory, {.k = 2, .training = true, .book = &book});
    book.terms().at(2).entropy.backward();
    const at::Tensor gradient = p["layers.0.moe.router.project"].grad();
    const bool reached = gradient.defined() && gradient.abs().sum().item<double>() > 1e-6;
    EXPECT_EQ(reached, !detach);
    EXPECT_GT(p["layers.2.moe.router.project"].grad().abs().sum().item<double>(), 1e-6);
  }
}

}  // namespace
}  // namespace smoe
