#include "smoe/models/transformer_xl.h"

#include <gtest/gtest.h>

#include "smoe/base/error.h"
#include "tests/models/fixture_model.h"

namespace smoe {
namespace {

using testing::fixture_model;
using testing::fixture_tokens;

ModelSpec published(int64_t layers, LayerSelection moe_layers, int64_t ffn_width) {
  ModelSpec spec;
  spec.vocabulary = 204;
  spec.model.layers = layers;
  spec.model.moe_layers = std::move(moe_layers);
  spec.model.ffn_width = ffn_width;
  return spec;
}

int64_t count(const torch::nn::Module& module, bool frozen_only = false) {
  int64_t sum = 0;
  for (const at::Tensor& p : module.parameters()) {
    if (!frozen_only || !p.requires_grad()) sum += p.numel();
  }
  return sum;
}

TEST(TransformerXl, ParameterCountsOfThePublishedModels) {
  const LayerSelection all{.all = true, .ids = {}}, none{}, first_four{.all = false, .ids = {0, 1, 2, 3}};
  const TransformerXl moe(published(4, all, 512), RandomStream(1));
  EXPECT_EQ(count(moe), 19521804);
  EXPECT_EQ(count(moe, /*frozen_only=*/true), 16448);
  EXPECT_EQ(count(TransformerXl(published(4, none, 8192), RandomStream(1))), 19489996);
  EXPECT_EQ(count(TransformerXl(published(8, first_four, 512), RandomStream(1))), 23198988);
  EXPECT_EQ(count(TransformerXl(published(12, first_four, 512), RandomStream(1))), 26876172);
  const std::map<int64_t, double> touched = {{1, 3747084}, {2, 4798732}, {4, 6902028}, {8, 11108620}, {16, 19521804}};
  for (const auto& [k, parameters] : touched) EXPECT_EQ(moe.active_parameters(static_cast<double>(k)), parameters);
  EXPECT_EQ(moe.dial(), Dial::kK);
}

TEST(TransformerXl, FlopsOfThePublishedModel) {
  const TransformerXl moe(published(4, {.all = true, .ids = {}}, 512), RandomStream(1));
  const TransformerXl dense(published(4, {}, 8192), RandomStream(1));
  const Lengths train{.batch = 1, .segment = 512, .memory = 512};
  const auto giga = [](const LanguageModel& model, const Lengths& lengths, double k) {
    return model.flops_per_token(lengths, k) * static_cast<double>(lengths.segment) / 1e9;
  };
  const std::map<double, double> want = {{1, 12.42}, {2, 13.49}, {4, 15.64}, {8, 19.93}, {12, 24.23}, {16, 28.52}};
  for (const auto& [k, flops] : want) EXPECT_NEAR(giga(moe, train, k), flops, 0.005) << "k = " << k;
  EXPECT_NEAR(giga(dense, train, 0), 28.51, 0.005);
  const Lengths eval{.batch = 1, .segment = 128, .memory = 896};
  EXPECT_NEAR(giga(moe, eval, 8), 8.21, 0.01);
  EXPECT_NEAR(giga(moe, eval, 16), 10.35, 0.005);
  EXPECT_EQ(dense.dial(), Dial::kNone);
}

TEST(TransformerXl, InitialisationIsThePublishedOne) {
  const TransformerXl model(published(2, {.all = true, .ids = {}}, 512), RandomStream(3));
  for (const auto& item : model.named_parameters()) {
    const at::Tensor p = item.value().detach().to(torch::kDouble);
    const bool is_gain = item.key().ends_with("gain");
    const bool is_bias = item.key().ends_with("norm_bias") || item.key().ends_with("router.bias") ||
                         item.key().ends_with(".b1") || item.key().ends_with(".b2") || item.key() == "output_bias";
    if (is_bias) {
      EXPECT_EQ(p.abs().max().item<double>(), 0) << item.key();
      continue;
    }
    // Five standard errors of mean and deviation.
    const double n = static_cast<double>(p.numel());
    EXPECT_NEAR(p.mean().item<double>(), is_gain ? 1 : 0, 5 * 0.02 / std::sqrt(n)) << item.key();
    EXPECT_NEAR(p.std().item<double>(), 0.02, 5 * 0.02 / std::sqrt(2 * n)) << item.key();
  }
}

TEST(TransformerXl, LossOfAFreshModelOnRandomTokens) {
  const torch::NoGradGuard no_grad;
  const auto nll = [](const ModelSpec& spec, int64_t k) {
    TransformerXl model(spec, RandomStream(1111));
    torch::manual_seed(5);
    const at::Tensor tokens = torch::randint(204, {4, 129}, torch::kLong);
    Memory memory = model.empty_memory(4);
    const at::Tensor logits = model.forward(tokens.narrow(1, 0, 128), memory, {.k = k});
    return mean_nll(logits, tokens.narrow(1, 1, 128)).item<double>();
  };
  // The published code gave 5.88 to 5.92 for the mixture and 5.52 for the dense model, of one seed.
  for (const int64_t k : {1, 16}) EXPECT_NEAR(nll(published(4, {.all = true, .ids = {}}, 512), k), 5.90, 0.1);
  EXPECT_NEAR(nll(published(4, {}, 8192), 1), 5.52, 0.1);
}

TEST(TransformerXl, OutputOfAMixtureShrinksWithKAtTheStart) {
  const torch::NoGradGuard no_grad;
  const MoeConfig config;
  MoeLayer layer(config, 256, 0.02, RandomStream(7));
  at::Tensor x = torch::empty({512, 256});
  RandomStream(8).fill_normal(x, 0, 1);
  const std::map<int64_t, double> rms = {{1, 0.102}, {2, 0.073}, {4, 0.052}, {8, 0.036}, {16, 0.026}};
  for (const auto& [k, want] : rms) {
    RouteInput input;
    input.x = x;
    input.k = k;
    const at::Tensor y = layer.forward(input, {}, nullptr, 0).y;
    EXPECT_NEAR(y.square().mean().sqrt().item<double>(), want, 0.1 * want) << "k = " << k;
  }
}

TEST(TransformerXl, SegmentsAndMemoryEqualOneLongForward) {
  const torch::NoGradGuard no_grad;
  const auto model = fixture_model(false);
  const at::Tensor tokens = fixture_tokens().narrow(1, 0, 9);
  Memory long_memory = model->empty_memory(2);
  const at::Tensor whole = model->forward(tokens, long_memory, {.k = 3, .memory_length = 20});
  for (const std::vector<int64_t>& sizes :
       std::vector<std::vector<int64_t>>{{3, 3, 3}, {1, 8}, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {5, 4}}) {
    Memory memory = model->empty_memory(2);
    std::vector<at::Tensor> parts;
    int64_t first = 0;
    for (const int64_t size : sizes) {
      parts.push_back(model->forward(tokens.narrow(1, first, size), memory, {.k = 3, .memory_length = 20}));
      first += size;
    }
    EXPECT_TRUE(torch::allclose(torch::cat(parts, 1), whole, 1e-10, 1e-12));
    for (size_t layer = 0; layer < memory.layers.size(); ++layer) {
      EXPECT_TRUE(torch::allclose(memory.layers[layer].inputs, long_memory.layers[layer].inputs, 1e-10, 1e-12));
    }
  }
}

TEST(TransformerXl, AFixedWindowDoesNotDependOnTheCutIntoSegments) {
  const torch::NoGradGuard no_grad;
  const auto model = fixture_model(false);
  const at::Tensor tokens = fixture_tokens().narrow(1, 0, 9);
  const auto logits = [&](const std::vector<int64_t>& sizes) {
    Memory memory = model->empty_memory(2);
    std::vector<at::Tensor> parts;
    int64_t first = 0;
    for (const int64_t size : sizes) {
      parts.push_back(
          model->forward(tokens.narrow(1, first, size), memory, {.k = 2, .memory_length = 3, .fixed_window = true}));
      first += size;
    }
    return torch::cat(parts, 1);
  };
  const at::Tensor whole = logits({9});
  EXPECT_TRUE(torch::allclose(logits({1, 1, 1, 1, 1, 1, 1, 1, 1}), whole, 1e-10, 1e-12));
  EXPECT_TRUE(torch::allclose(logits({4, 2, 3}), whole, 1e-10, 1e-12));
  // Without the window, the first token still reaches the ninth, four places past the memory.
  Memory memory = model->empty_memory(2);
  const at::Tensor unlimited = model->forward(tokens, memory, {.k = 2, .memory_length = 3});
  EXPECT_FALSE(torch::allclose(unlimited, whole, 1e-6, 1e-8));
}

TEST(TransformerXl, IsCausal) {
  const torch::NoGradGuard no_grad;
  const auto model = fixture_model(false);
  at::Tensor tokens = fixture_tokens().clone();
  Memory memory = model->empty_memory(2);
  const at::Tensor before = model->forward(tokens, memory, {.k = 2});
  tokens.select(1, 6).fill_(0);
  memory = model->empty_memory(2);
  const at::Tensor after = model->forward(tokens, memory, {.k = 2});
  EXPECT_TRUE(torch::allclose(before.narrow(1, 0, 6), after.narrow(1, 0, 6), 1e-12, 1e-13));
  EXPECT_FALSE(torch::allclose(before.narrow(1, 6, 1), after.narrow(1, 6, 1), 1e-6, 1e-6));
}

TEST(TransformerXl, KPerTokenInOneForwardEqualsTheSameKForAll) {
  const torch::NoGradGuard no_grad;
  const auto model = fixture_model(false);
  const at::Tensor tokens = fixture_tokens();
  const auto forward = [&](ActiveK k) {
    Memory memory = model->empty_memory(2);
    return model->forward(tokens, memory, {.k = std::move(k)});
  };
  // The first sequence at k = 1, the second at k = 4.
  const at::Tensor k = torch::cat({torch::full({10}, 1, torch::kInt), torch::full({10}, 4, torch::kInt)});
  const at::Tensor mixed = forward(ActiveK(k));
  EXPECT_TRUE(torch::allclose(mixed[0], forward(1)[0], 1e-10, 1e-12));
  EXPECT_TRUE(torch::allclose(mixed[1], forward(4)[1], 1e-10, 1e-12));
}

TEST(TransformerXl, TheDialTouchesNoWeight) {
  const torch::NoGradGuard no_grad;
  const auto model = fixture_model(false);
  std::vector<at::Tensor> before;
  for (const at::Tensor& p : model->parameters()) before.push_back(p.clone());
  const std::vector<double> first = testing::fixture_nll(*model, 2);
  for (int64_t k = 1; k <= 4; ++k) testing::fixture_nll(*model, k);
  EXPECT_EQ(testing::fixture_nll(*model, 2), first);
  size_t i = 0;
  for (const at::Tensor& p : model->parameters()) EXPECT_TRUE(torch::equal(p, before[i++]));
  EXPECT_THROW(testing::fixture_nll(*model, 0), UserError);
  EXPECT_THROW(testing::fixture_nll(*model, 5), UserError);
}

TEST(TransformerXl, DropoutDependsOnTheStreamAlone) {
  ModelSpec spec = testing::fixture_spec(false);
  spec.model.dropout = 0.3;
  spec.model.attention_dropout = 0.2;
  const torch::NoGradGuard no_grad;
  TransformerXl model(spec, RandomStream(1));
  const auto forward = [&](uint64_t key, bool training) {
    Memory memory = model.empty_memory(2);
    return model.forward(fixture_tokens(), memory, {.k = 2, .training = training, .random = RandomStream(key)});
  };
  EXPECT_TRUE(torch::equal(forward(1, true), forward(1, true)));
  EXPECT_FALSE(torch::equal(forward(1, true), forward(2, true)));
  EXPECT_TRUE(torch::equal(forward(1, false), forward(2, false)));
}

TEST(TransformerXl, RefusesLayersThatAreNotThere) {
  ModelSpec spec = testing::fixture_spec(false);
  spec.model.moe_layers = {.all = false, .ids = {0, 2}};
  EXPECT_THROW(make_model(spec, RandomStream(1)), UserError);
}

TEST(TransformerXl, Bf16StaysNearFp32) {
  const torch::NoGradGuard no_grad;
  ModelSpec spec = published(2, {.all = true, .ids = {}}, 512);
  TransformerXl model(spec, RandomStream(2));
  torch::manual_seed(1);
  const at::Tensor tokens = torch::randint(204, {2, 33}, torch::kLong);
  const auto nll = [&](Precision precision) {
    model.set_precision(precision);
    Memory memory = model.empty_memory(2);
    const at::Tensor logits = model.forward(tokens.narrow(1, 0, 32), memory, {.k = 8});
    EXPECT_EQ(logits.scalar_type(), torch::kFloat);
    return mean_nll(logits, tokens.narrow(1, 1, 32)).item<double>();
  };
  const double full = nll(Precision::kFull), half = nll(Precision::kBf16);
  EXPECT_NEAR(half, full, 0.02);
  EXPECT_NE(half, full);
}

}  // namespace
}  // namespace smoe
