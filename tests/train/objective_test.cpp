#include "smoe/train/objective.h"

#include <gtest/gtest.h>

#include <cmath>

#include "smoe/moe/moe_layer.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"

namespace smoe {
namespace {

/// Two layers, D 8, experts loud enough to tell apart.
std::shared_ptr<LanguageModel> model_of(int64_t experts, double dropout = 0) {
  ModelSpec spec;
  spec.model = {.layers = 2, .width = 8, .heads = 2, .head_width = 4, .dropout = dropout};
  spec.moe.router = "thor";
  spec.moe.experts = experts;
  spec.moe.expert_width = 8;
  spec.vocabulary = 11;
  const auto model = make_model(spec, RandomStream(1));
  for (const auto& parameter : model->named_parameters()) {
    if (parameter.key().find("experts") != std::string::npos) parameter.value().detach().mul_(20);
  }
  return model;
}

at::Tensor tokens(int64_t shift) { return (torch::arange(12).view({2, 6}) * 5 + shift).remainder(11); }

Pass training_pass(StatsBook* book = nullptr) {
  return {.k = 1, .training = true, .random = RandomStream(3), .memory_length = 6, .book = book};
}

ObjectiveResult compute(const ObjectiveConfig& config, LanguageModel& model, Memory& memory,
                        StatsBook* book = nullptr) {
  return make_objective(config)->compute(model, tokens(0), tokens(5), memory, training_pass(book));
}

ObjectiveConfig thor(const std::string& form, double alpha = 5) {
  ObjectiveConfig config;
  config.kind = "thor";
  config.thor = {.alpha = alpha, .form = form};
  return config;
}

TEST(Objective, LikelihoodIsTheMeanNll) {
  const auto model = model_of(4);
  Memory memory = model->empty_memory(2), other = memory;
  const ObjectiveResult result = compute({}, *model, memory);
  const at::Tensor want = mean_nll(model->forward(tokens(0), other, training_pass()), tokens(5));
  EXPECT_EQ(result.nll, want.item<double>());
  EXPECT_TRUE(torch::equal(result.loss, want));
  EXPECT_TRUE(result.parts.empty());
}

TEST(Objective, TheOutputsLogitsCanBeKeptSmall) {
  const auto model = model_of(4);
  Memory memory = model->empty_memory(2), other = memory;
  ObjectiveConfig config;
  config.output_z = 0.25;
  const ObjectiveResult result = compute(config, *model, memory);
  ASSERT_EQ(result.parts.size(), 1u);
  EXPECT_EQ(result.parts[0].name, "output_z");
  EXPECT_EQ(result.parts[0].weight, 0.25);
  const at::Tensor logits = model->forward(tokens(0), other, training_pass());
  EXPECT_NEAR(result.parts[0].value.item<double>(), logits.exp().sum(-1).log().square().mean().item<double>(), 1e-5);
  config = thor("thor");
  config.output_z = 0.25;
  Memory again = model->empty_memory(2);
  EXPECT_EQ(compute(config, *model, again).parts.size(), 2u);
  // 0 where the sum of the exponentials is 1, whatever it is shifted by otherwise.
  const at::Tensor x = torch::randn({2, 3, 7}, torch::kFloat64);
  EXPECT_NEAR(output_z_loss(torch::log_softmax(x, -1)).item<double>(), 0, 1e-20);
  EXPECT_NEAR(output_z_loss(torch::log_softmax(x, -1) + 3).item<double>(), 9, 1e-12);
}

TEST(Objective, ThorsFormsAreTheirFormulas) {
  const auto model = model_of(6);
  Memory memory = model->empty_memory(2), first_memory = memory, second_memory = memory;
  const ObjectiveResult published = compute(thor("thor"), *model, memory);
  // The two passes by hand.
  Pass second_pass = training_pass();
  second_pass.random = second_pass.random.at("second pass");
  const at::Tensor a = model->forward(tokens(0), first_memory, training_pass()).to(torch::kFloat64),
                   b = model->forward(tokens(0), second_memory, second_pass).to(torch::kFloat64);
  const at::Tensor p = torch::softmax(a, -1), q = torch::softmax(b, -1);
  const double divergence = ((p - q) * (p.log() - q.log())).sum(-1).mean().item<double>();
  const double nll = mean_nll(a, tokens(5)).item<double>() + mean_nll(b, tokens(5)).item<double>();
  ASSERT_GT(divergence, 1e-3) << "the passes drew the same experts";
  EXPECT_NEAR(published.loss.item<double>(), nll, 1e-5);
  EXPECT_NEAR(published.nll, nll / 2, 1e-5);
  ASSERT_EQ(published.parts.size(), 1u);
  EXPECT_EQ(published.parts[0].name, "consistency");
  EXPECT_EQ(published.parts[0].weight, 5);
  EXPECT_NEAR(published.parts[0].value.item<double>(), divergence / 2, 1e-5);
  for (size_t layer = 0; layer < memory.layers.size(); ++layer) {
    EXPECT_TRUE(torch::equal(memory.layers[layer].inputs, first_memory.layers[layer].inputs))
        << "the memory is the first pass's";
  }
  memory = model->empty_memory(2);
  const ObjectiveResult mean = compute(thor("smoe_dropout"), *model, memory);
  EXPECT_NEAR(mean.loss.item<double>(), nll / 2, 1e-5);
  EXPECT_NEAR(mean.parts[0].value.item<double>(), divergence / 11, 1e-6);
}

TEST(Objective, OneExpertWithoutDropoutAgreesWithItself) {
  const auto model = model_of(1);
  Memory memory = model->empty_memory(2);
  const ObjectiveResult result = compute(thor("thor"), *model, memory);
  EXPECT_EQ(result.parts[0].value.item<double>(), 0);
  EXPECT_NEAR(result.loss.item<double>(), 2 * result.nll, 1e-6);
  // Dropout differs between the passes too.
  const auto dropped = model_of(1, 0.3);
  memory = dropped->empty_memory(2);
  EXPECT_GT(compute(thor("thor"), *dropped, memory).parts[0].value.item<double>(), 1e-6);
}

TEST(Objective, RoutingIsRecordedOnce) {
  const auto model = model_of(4);
  Memory memory = model->empty_memory(2);
  StatsBook book;
  compute(thor("thor"), *model, memory, &book);
  ASSERT_EQ(book.layers().size(), 2u);
  EXPECT_EQ(book.layers()[0].tokens, 12);
  EXPECT_EQ(book.layers()[0].count.max().item<double>(), 12);  // one expert took the batch
}

TEST(Objective, TheDivergenceIsSymmetricAndNotNegative) {
  const at::Tensor a = torch::sin(torch::arange(12, torch::kFloat64) * 1.3).view({1, 3, 4}) * 3,
                   b = torch::cos(torch::arange(12, torch::kFloat64) * 0.9).view({1, 3, 4}) * 3;
  EXPECT_GT(symmetric_divergence(a, b).item<double>(), 0);
  EXPECT_NEAR(symmetric_divergence(a, b).item<double>(), symmetric_divergence(b, a).item<double>(), 1e-12);
  EXPECT_EQ(symmetric_divergence(a, a).item<double>(), 0);
  // A probability that rounds to nothing is no infinity times nothing.
  const at::Tensor far = torch::tensor({{{0.0F, -200.0F}}}), near = torch::tensor({{{0.0F, 0.0F}}});
  EXPECT_TRUE(std::isfinite(symmetric_divergence(far, near).item<double>()));
  testing::gradcheck([&] { return symmetric_divergence(a, b); }, {{"a", a}, {"b", b}});
}

TEST(Objective, UnknownKindsAreSuggested) {
  ObjectiveConfig config;
  config.kind = "likelyhood";
  EXPECT_NE(message_of([&] { make_objective(config); }).find("did you mean 'likelihood'?"), std::string::npos);
}

}  // namespace
}  // namespace smoe
