// Attention whose queries, keys and values come from a mixture of projections.
#include <gtest/gtest.h>
#include <torch/nn/module.h>

#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "smoe/base/error.h"
#include "smoe/models/mixture_projection.h"
#include "smoe/models/model_folder.h"
#include "smoe/models/model_parts.h"
#include "smoe/models/transformer_xl.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"

namespace smoe {
namespace {

ModelSpec spec_of(int64_t experts = 4, int64_t k = 2) {
  ModelSpec spec;
  spec.vocabulary = 7;
  spec.model.layers = 3;
  spec.model.width = 8;
  spec.model.heads = 2;
  spec.model.head_width = 4;
  spec.model.ffn_width = 6;
  spec.model.moe_layers = {.all = false, .ids = {1}};
  spec.model.dropout = 0;
  spec.model.attention = "mixture";
  spec.model.mixture.layers = {.all = false, .ids = {0, 2}};
  spec.model.mixture.experts = experts;
  spec.model.mixture.k = k;
  spec.moe.experts = 3;
  spec.moe.expert_width = 5;
  spec.moe.router_init_std = 1;  // so that tokens part
  return spec;
}

ModelSpec plain_spec() {
  ModelSpec spec = spec_of();
  spec.model.attention = "plain";
  return spec;
}

std::shared_ptr<TransformerXl> model_of(const ModelSpec& spec) {
  auto model = std::make_shared<TransformerXl>(spec, RandomStream(3));
  model->to(torch::kFloat64);
  return model;
}

std::map<std::string, at::Tensor> parameters_of(const torch::nn::Module& model) {
  std::map<std::string, at::Tensor> out;
  for (const auto& item : model.named_parameters()) out[item.key()] = item.value();
  return out;
}

at::Tensor tokens() { return torch::tensor({{0, 3, 6, 2, 1, 5, 4, 0, 3}, {5, 1, 6, 4, 0, 2, 3, 6, 5}}, torch::kLong); }

at::Tensor normal(at::IntArrayRef sizes, uint64_t seed) {
  at::Tensor out = torch::empty(sizes, torch::kDouble);
  RandomStream(seed).fill_normal(out, 0, 1);
  return out;
}

TEST(MixtureAttention, EachLayerIsAskedForItself) {
  const auto parameters = parameters_of(*model_of(spec_of()));
  for (const std::string layer : {"layers.0.", "layers.2."}) {
    EXPECT_EQ(parameters.count(layer + "attention.qkv"), 0u);
    EXPECT_EQ(parameters.at(layer + "attention.projection.weight").sizes(), at::IntArrayRef({4, 24, 8}));
    EXPECT_EQ(parameters.at(layer + "attention.projection.bias").sizes(), at::IntArrayRef({4, 24}));
    EXPECT_FALSE(parameters.at(layer + "attention.projection.router.weight").requires_grad());
  }
  EXPECT_EQ(parameters.count("layers.1.attention.qkv"), 1u);
  EXPECT_EQ(parameters.count("layers.1.attention.projection.weight"), 0u);
  EXPECT_EQ(part_of("layers.0.attention.projection.weight"), "attention");
  EXPECT_EQ(part_of("layers.0.attention.projection.router.weight"), "router");
}

TEST(MixtureAttention, OfOneExpertIsPlainAttention) {
  const torch::NoGradGuard no_grad;
  const auto plain = model_of(plain_spec()), mixture = model_of(spec_of(1, 1));
  const auto from = parameters_of(*plain);
  for (const auto& [name, target] : parameters_of(*mixture)) {
    const size_t place = name.find("attention.projection.");
    if (place == std::string::npos) {
      target.copy_(from.at(name));
    } else if (name.ends_with("projection.weight")) {
      target.copy_(from.at(name.substr(0, place) + "attention.qkv").unsqueeze(0));
    }
  }
  Memory a = plain->empty_memory(2), b = mixture->empty_memory(2);
  for (int i = 0; i < 2; ++i) {
    const at::Tensor expected = plain->forward(tokens(), a, {.k = 2, .memory_length = 9});
    EXPECT_TRUE(torch::allclose(mixture->forward(tokens(), b, {.k = 2, .memory_length = 9}), expected, 1e-10, 1e-12));
  }
}

TEST(MixtureAttention, IsTheWeightedSumOfItsProjections) {
  const torch::NoGradGuard no_grad;
  MoeConfig moe;
  moe.router_init_std = 1;
  for (const int64_t k : {1, 2, 4}) {
    MixtureProjection projection(moe, 4, k, 6, 5, 0.5, RandomStream(1));
    projection.to(torch::kFloat64);
    const auto parameters = parameters_of(projection);
    parameters.at("bias").copy_(torch::arange(20, torch::kDouble).view({4, 5}));
    RouteInput route;
    route.x = normal({11, 6}, 2);
    route.k = k;
    const Routing routing = projection.router().route(route);
    at::Tensor expected = torch::zeros({11, 5}, torch::kDouble);
    for (int64_t t = 0; t < 11; ++t) {
      for (int64_t s = 0; s < k; ++s) {
        const int64_t e = routing.expert[t][s].item<int64_t>();
        expected[t] +=
            routing.weight[t][s] * (parameters.at("weight")[e].matmul(route.x[t]) + parameters.at("bias")[e]);
      }
    }
    for (const int64_t count : {11, 1, 0}) {
      EXPECT_TRUE(torch::allclose(projection.forward(route.x.narrow(0, 0, count), {}, Precision::kFull),
                                  expected.narrow(0, 0, count), 1e-10, 1e-12))
          << "k " << k << ", T " << count;
    }
  }
}

TEST(MixtureAttention, PastTokensAreRoutedAsTheyWereWhenTheyCame) {
  const torch::NoGradGuard no_grad;
  for (const int64_t k : {1, 2}) {
    const auto model = model_of(spec_of(4, k));
    Memory long_memory = model->empty_memory(2);
    const at::Tensor whole = model->forward(tokens(), long_memory, {.k = 2, .memory_length = 20});
    for (const std::vector<int64_t>& sizes : std::vector<std::vector<int64_t>>{{3, 3, 3}, {1, 8}, {5, 4}}) {
      Memory memory = model->empty_memory(2);
      std::vector<at::Tensor> parts;
      int64_t first = 0;
      for (const int64_t size : sizes) {
        parts.push_back(model->forward(tokens().narrow(1, first, size), memory, {.k = 2, .memory_length = 20}));
        first += size;
      }
      EXPECT_TRUE(torch::allclose(torch::cat(parts, 1), whole, 1e-10, 1e-12));
    }
  }
}

TEST(MixtureAttention, GradientsAreRight) {
  for (const auto& [router, score, k] : std::vector<std::tuple<std::string, std::string, int64_t>>{
           {"random_frozen", "", 1},
           {"random_frozen", "", 2},
           {"random_frozen", "", 4},
           {"learned", "selected_softmax", 2},
           {"learned", "softmax", 1},
           {"learned", "sigmoid", 1},
       }) {
    MoeConfig moe;
    moe.router = router;
    moe.routers.learned.score = score;
    moe.router_init_std = 1;
    MixtureProjection projection(moe, 4, k, 3, 2, 0.5, RandomStream(1));
    projection.to(torch::kFloat64);
    const at::Tensor x = normal({5, 3}, 2);
    const auto parameters = parameters_of(projection);
    std::vector<std::pair<std::string, at::Tensor>> inputs = {
        {"x", x}, {"weight", parameters.at("weight")}, {"bias", parameters.at("bias")}};
    if (router == "learned") inputs.emplace_back("router.weight", parameters.at("router.weight"));
    testing::gradcheck([&] { return projection.forward(x, {}, Precision::kFull); }, inputs);
  }
}

TEST(MixtureAttention, ATrainedRouterLearnsFromTheTask) {
  ModelSpec spec = spec_of(4, 1);
  spec.moe.router = "learned";
  spec.moe.routers.learned.score = "softmax";
  spec.check();
  const auto model = model_of(spec);
  Memory memory = model->empty_memory(2);
  mean_nll(model->forward(tokens(), memory, {.k = 2, .training = true}), tokens()).backward();
  for (const char* layer : {"layers.0.", "layers.2."}) {
    const at::Tensor weight = parameters_of(*model).at(layer + std::string("attention.projection.router.weight"));
    ASSERT_TRUE(weight.grad().defined()) << layer;
    EXPECT_GT(weight.grad().abs().max().item<double>(), 0) << layer;
  }
}

TEST(MixtureAttention, AnExpertThatNobodyChoseGetsAGradientOfZeros) {
  MixtureProjection projection({}, 3, 1, 4, 2, 0.5, RandomStream(1));
  {
    const torch::NoGradGuard no_grad;
    parameters_of(projection).at("router.bias").copy_(torch::tensor({0.0, 100.0, 0.0}));
  }
  projection.forward(torch::ones({6, 4}), {}, Precision::kFull).sum().backward();
  const at::Tensor gradient = parameters_of(projection).at("weight").grad();
  EXPECT_EQ(gradient[0].abs().sum().item<double>(), 0);
  EXPECT_GT(gradient[1].abs().sum().item<double>(), 0);
}

TEST(MixtureAttention, InBf16IsCloseToFp32) {
  const torch::NoGradGuard no_grad;
  const auto model = make_model(spec_of(), RandomStream(3));
  Memory a = model->empty_memory(2), b = model->empty_memory(2);
  const at::Tensor full = model->forward(tokens(), a, {.k = 2, .memory_length = 9});
  model->set_precision(Precision::kBf16);
  const at::Tensor half = model->forward(tokens(), b, {.k = 2, .memory_length = 9});
  EXPECT_EQ(half.scalar_type(), torch::kFloat);
  EXPECT_LT((half - full).abs().max().item<double>(), 0.05 * full.abs().max().item<double>());
}

TEST(MixtureAttention, CostsWhatItComputes) {
  const auto plain = model_of(plain_spec()), one = model_of(spec_of(4, 1)), two = model_of(spec_of(4, 2));
  const Lengths lengths{.batch = 1, .segment = 2, .memory = 6};
  const double keys_per_token = 8.0 / 2, matrix = 2.0 * 24 * 8, router = 2.0 * 4 * 8;
  EXPECT_NEAR(one->flops_per_token(lengths, 2) - plain->flops_per_token(lengths, 2), 2 * router * keys_per_token, 1e-6);
  EXPECT_NEAR(two->flops_per_token(lengths, 2) - one->flops_per_token(lengths, 2), 2 * matrix * keys_per_token, 1e-6);
  EXPECT_EQ(one->active_parameters(2) - plain->active_parameters(2), 2 * (24 + 4 * 8 + 4));  // biases and routers
  EXPECT_EQ(two->active_parameters(2) - one->active_parameters(2), 2 * (24 * 8 + 24));
  int64_t parameters = 0;
  for (const PartCount& part : count_parts(*two)) parameters += part.part == "attention" ? part.total() : 0;
  for (const PartCount& part : count_parts(*plain)) parameters -= part.part == "attention" ? part.total() : 0;
  EXPECT_EQ(parameters, 2 * (4 * (24 * 8 + 24) - 24 * 8));
}

TEST(MixtureAttention, IsSavedAndRead) {
  const TempFolder folder;
  ModelSpec spec = spec_of();
  spec.vocabulary = 256;
  const auto model = make_model(spec, RandomStream(4));
  save_model(folder.path(), *model, ByteVocabulary::bytes(), {});
  const ModelCard card = read_model_card(folder.path());
  EXPECT_EQ(card.spec.model.mixture.layers.ids, (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(card.spec.model.mixture.k, 2);
}

TEST(MixtureAttention, RefusesWhatMakesNoSense) {
  const auto fault = [](const std::function<void(ModelSpec&)>& change) {
    ModelSpec spec = spec_of();
    change(spec);
    return message_of([&] { spec.check(); });
  };
  EXPECT_EQ(fault([](ModelSpec&) {}), "(nothing was thrown)");
  EXPECT_EQ(fault([](ModelSpec& s) { s.model.mixture.k = 5; }),
            "model.mixture.k = 5 is larger than model.mixture.experts = 4: a token takes each expert at most once");
  EXPECT_EQ(fault([](ModelSpec& s) { s.model.mixture.layers.ids = {3}; }),
            "model.mixture.layers names layer 3, but model.layers = 3: the last is layer 2");
  EXPECT_EQ(fault([](ModelSpec& s) { s.moe.router = "hash"; }),
            "model.attention = \"mixture\" takes moe.router = \"random_frozen\" or \"learned\", not \"hash\"");
  const auto learned = [&](int64_t k, const std::string& score, double bias_rate) {
    return fault([&](ModelSpec& s) {
      s.moe.router = "learned";
      s.moe.routers.learned.score = score;
      s.moe.routers.learned.bias_rate = bias_rate;
      s.model.mixture.k = k;
    });
  };
  EXPECT_EQ(learned(2, "selected_softmax", 0), "(nothing was thrown)");
  EXPECT_EQ(learned(1, "softmax", 0), "(nothing was thrown)");
  EXPECT_NE(learned(1, "selected_softmax", 0).find("would learn nothing; take moe.learned.score = \"softmax\""),
            std::string::npos);
  EXPECT_NE(learned(2, "softmax", 0.1).find("moe.learned.bias_rate = 0.1 balances by statistics"), std::string::npos);
  // A router that is not asked for may be any.
  EXPECT_EQ(fault([](ModelSpec& s) {
              s.moe.router = "hash";
              s.model.mixture.layers.ids = {};
            }),
            "(nothing was thrown)");
}

}  // namespace
}  // namespace smoe
