#include "smoe/models/hidden_dropout.h"

#include <gtest/gtest.h>

#include <cmath>

#include "smoe/models/transformer_xl.h"
#include "smoe/moe/losses.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using testing::same_bits;

ModelConfig config_of(const std::string& kind) {
  ModelConfig config{
      .layers = 2, .width = 8, .heads = 2, .head_width = 4, .ffn_width = 24, .moe_layers = {}, .dropout = 0};
  config.ffn_dropout = kind;
  config.expert_dropout.groups = 6;
  return config;
}

std::shared_ptr<HiddenDropout> made(const ModelConfig& config) {
  return make_hidden_dropout(config, config.ffn_width, RandomStream(1));
}

at::Tensor dropped(const ModelConfig& config, int64_t tokens, uint64_t seed = 3) {
  return made(config)->drop(torch::ones({tokens, config.ffn_width}), RandomStream(seed)).detach();
}

TEST(HiddenDropout, EveryKindIsAFunctionOfItsStream) {
  for (const HiddenDropoutKind& kind : hidden_dropout_kinds()) {
    SCOPED_TRACE(kind.name);
    EXPECT_FALSE(kind.summary.empty() || kind.paper.empty());
    const ModelConfig config = config_of(kind.name);
    const auto dropout = made(config);
    EXPECT_EQ(dropout == nullptr, kind.name == "plain");
    if (dropout == nullptr) continue;
    EXPECT_TRUE(same_bits(dropped(config, 50), dropped(config, 50)));
    EXPECT_FALSE(torch::equal(dropped(config, 50), dropped(config, 50, 4)));
    EXPECT_EQ(dropped(config, 0).sizes(), at::IntArrayRef({0, 24}));
    EXPECT_EQ(dropped(config, 1).sizes(), at::IntArrayRef({1, 24}));
    EXPECT_TRUE(dropped(config, 1).isfinite().all().item<bool>());
  }
  ModelConfig wrong = config_of("expert");
  wrong.expert_dropout.groups = 25;
  EXPECT_NE(message_of([&] { made(wrong); }).find("model.expert.groups = 25 is more than the 24"), std::string::npos);
}

TEST(HiddenDropout, ConcreteIsItsFormula) {
  ModelConfig config = config_of("concrete");
  config.concrete = {.rate = 0.3, .temperature = 0.2, .weight_scale = 0.01, .rate_scale = 0.02};
  const auto dropout = made(config);
  dropout->to(torch::kFloat64);
  const RandomStream random(5);
  const int64_t T = 7, D = 8, H = 24;
  at::Tensor hidden = torch::linspace(-1, 1, T * H, torch::kFloat64).view({T, H});
  const at::Tensor u = random.uniform_rows(torch::arange(T), H).to(torch::kFloat64),
                   got = dropout->drop(hidden, random);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t f = 0; f < H; ++f) {
      const double v = u[t][f].item<double>();
      const double z = 1 / (1 + std::exp(-(std::log(0.3 / 0.7) + std::log(v / (1 - v))) / 0.2));
      EXPECT_NEAR(got[t][f].item<double>(), hidden[t][f].item<double>() * (1 - z) / 0.7, 1e-5);
    }
  }
  const at::Tensor w2 = torch::linspace(0, 1, D * H, torch::kFloat64).view({D, H});
  const double want =
      0.01 * w2.square().sum().item<double>() / 0.7 + 0.02 * 24 * (0.3 * std::log(0.3) + 0.7 * std::log(0.7));
  ASSERT_EQ(dropout->terms(w2).size(), 1u);
  EXPECT_NEAR(dropout->terms(w2).at("concrete").value.item<double>(), want, 1e-6);
  EXPECT_EQ(dropout->terms(w2).at("concrete").value.dim(), 0);
  testing::gradcheck(
      [&] {
        return torch::cat({dropout->drop(hidden, random).flatten(), dropout->terms(w2).at("concrete").value.view({1})});
      },
      {{"hidden", hidden}, {"logit", dropout->named_parameters()["logit"]}, {"w2", w2}}, {.tolerance = 1e-6});
}

TEST(HiddenDropout, ConcreteKeepsTheMeanNearly) {
  ModelConfig config = config_of("concrete");
  config.concrete.rate = 0.25;
  const at::Tensor out = dropped(config, 4000);
  EXPECT_NEAR(out.mean().item<double>(), 1, 0.02);
  // Below 0.1 where σ((logit 0.25 + logit u) / 0.1) > 1 − 0.1 · 0.75: for u above 0.794.
  EXPECT_NEAR(out.lt(0.1).to(torch::kFloat32).mean().item<double>(), 0.206, 0.005);
  config.concrete.weight_scale = config.concrete.rate_scale = 0;
  EXPECT_FALSE(made(config)->has_terms());
  EXPECT_TRUE(made(config)->terms(torch::ones({2, 24})).empty());
}

TEST(HiddenDropout, DropBlockDropsRuns) {
  ModelConfig config = config_of("drop_block");
  config.drop_block = {.rate = 0.3, .size = 4};
  const at::Tensor out = dropped(config, 5000), gone = out.eq(0);
  // Runs are never shorter than their size but at the end of a row.
  for (int64_t t = 0; t < 200; ++t) {
    for (int64_t f = 0; f < 24;) {
      if (!gone[t][f].item<bool>()) {
        ++f;
        continue;
      }
      int64_t length = 0;
      while (f + length < 24 && gone[t][f + length].item<bool>()) ++length;
      EXPECT_TRUE(length >= 4 || f + length == 24) << t << " " << f;
      f += length;
    }
  }
  EXPECT_NEAR(out.mean().item<double>(), 1, 1e-5) << "scaled by what is kept of the batch";
  // A unit away from the beginning stays where none of four starts: (1 − 0.3/4)^4.
  const double stays = gone.narrow(1, 4, 20).logical_not().to(torch::kFloat64).mean().item<double>();
  EXPECT_NEAR(stays, std::pow(1 - 0.3 / 4, 4), 0.01);
  config.drop_block = {.rate = 0.9, .size = 1000};  // longer than a row: whatever begins goes to the end
  EXPECT_TRUE(dropped(config, 5000).isfinite().all().item<bool>());
}

TEST(HiddenDropout, ExpertsAreDroppedAsGroups) {
  ModelConfig config = config_of("expert");
  double share = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    const at::Tensor out = dropped(config, 3, seed);
    EXPECT_TRUE(torch::equal(out[0], out[1]) && torch::equal(out[0], out[2])) << "for all tokens alike";
    EXPECT_TRUE(torch::equal(out[0].narrow(0, 0, 6).repeat({4}), out[0])) << "unit i is of group i mod 6";
    EXPECT_TRUE(out.eq(0).logical_or(out.eq(1)).all().item<bool>()) << "nothing is scaled";
    share += out.mean().item<double>() / 400;
  }
  EXPECT_NEAR(share, 0.5, 0.04);
  EXPECT_TRUE(made(config)->is_beside_plain());
}

TEST(HiddenDropout, AModelUsesItInTrainingAlone) {
  const at::Tensor tokens = (torch::arange(12).view({2, 6}) * 5).remainder(11);
  ModelSpec plain{.model = config_of("plain"), .moe = {}, .vocabulary = 11};
  for (const std::string kind : {"concrete", "drop_block", "expert"}) {
    SCOPED_TRACE(kind);
    ModelSpec spec = plain;
    spec.model = config_of(kind);
    spec.check();
    TransformerXl model(spec, RandomStream(1)), same(plain, RandomStream(1));
    const auto forward = [&](TransformerXl& of, bool training, StatsBook* book = nullptr) {
      Memory memory = of.empty_memory(2);
      return of.forward(tokens, memory, {.k = 1, .training = training, .random = RandomStream(3), .book = book});
    };
    EXPECT_TRUE(same_bits(forward(model, false), forward(same, false)));
    EXPECT_FALSE(torch::allclose(forward(model, true), forward(same, true)));
    EXPECT_EQ(model.has_terms(), kind == "concrete");
    StatsBook book(StatsBook::Detail::kTerms);
    book.begin_micro_batch(0);
    forward(model, true, &book);
    const std::vector<NamedLoss> losses = auxiliary_losses(book, {});
    EXPECT_EQ(losses.size(), kind == "concrete" ? 1u : 0u);
    if (kind != "concrete") continue;
    losses[0].value.backward();  // both blocks' terms in one
    for (const char* name : {"layers.0.ffn.dropout.logit", "layers.1.ffn.dropout.logit"}) {
      EXPECT_GT(model.named_parameters()[name].grad().abs().item<double>(), 0) << name;
    }
    book.begin_micro_batch(1);
    EXPECT_TRUE(book.other_terms().empty());
  }
}

TEST(HiddenDropout, AModelOfMixturesAloneRefusesIt) {
  ModelSpec spec;
  spec.model.ffn_dropout = "concrete";
  EXPECT_NE(message_of([&] { spec.check(); }).find("set model.moe_layers"), std::string::npos);
  spec.model.moe_layers = {.all = false, .ids = {0, 1}};
  spec.check();
}

}  // namespace
}  // namespace smoe
