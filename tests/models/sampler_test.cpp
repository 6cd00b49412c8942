#include "smoe/models/sampler.h"

#include <gtest/gtest.h>

#include "smoe/base/error.h"
#include "tests/models/fixture_model.h"

namespace smoe {
namespace {

std::vector<int64_t> generate_tokens(const GenerateOptions& options,
                                     const std::vector<int64_t>& prompt = {0, 3, 6, 2, 1, 5, 4}) {
  const auto model = testing::fixture_model(false);
  std::vector<int64_t> out;
  generate(*model, prompt, options, [&](int64_t token) {
    out.push_back(token);
    return true;
  });
  return out;
}

TEST(Sampler, TemperatureZeroTakesTheLikeliest) {
  const at::Tensor logits = torch::tensor({0.1, 2.0, -1.0});
  for (const double u : {0.0, 0.5, 0.999}) EXPECT_EQ(sample_token(logits, {.temperature = 0}, u), 1);
}

TEST(Sampler, DrawsFollowTheProbabilities) {
  const at::Tensor logits = torch::tensor({0.1, 0.6, 0.3}, torch::kDouble).log();
  std::vector<int> seen(3);
  const int draws = 3000;
  for (int i = 0; i < draws; ++i) ++seen[static_cast<size_t>(sample_token(logits, {}, (i + 0.5) / draws))];
  EXPECT_EQ(seen, (std::vector<int>{300, 1800, 900}));
}

TEST(Sampler, TopPKeepsTheFewestThatReachIt) {
  const at::Tensor logits = torch::tensor({0.1, 0.6, 0.3}, torch::kDouble).log();
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(sample_token(logits, {.top_p = 0.5}, i / 100.0), 1);
    EXPECT_NE(sample_token(logits, {.top_p = 0.89}, i / 100.0), 0);
  }
  EXPECT_EQ(sample_token(logits, {.top_p = 1}, 0.9999), 0);
}

TEST(Sampler, RefusesWhatMakesNoSense) {
  EXPECT_THROW(SamplingOptions({.temperature = -1}).check(), UserError);
  EXPECT_THROW(SamplingOptions({.top_p = 0}).check(), UserError);
  EXPECT_THROW(SamplingOptions({.top_p = 1.5}).check(), UserError);
  EXPECT_THROW(generate_tokens({}, {}), UserError);
}

TEST(Generate, TheChunkingOfThePromptDoesNotChangeTheText) {
  const GenerateOptions whole{.k = 2, .tokens = 40, .memory = 4, .prompt_chunk = 100, .sampling = {.seed = 3}};
  const std::vector<int64_t> want = generate_tokens(whole);
  ASSERT_EQ(want.size(), 40u);
  for (const int64_t chunk : {1, 2, 3, 5}) {
    GenerateOptions options = whole;
    options.prompt_chunk = chunk;
    EXPECT_EQ(generate_tokens(options), want) << "chunks of " << chunk;
  }
}

TEST(Generate, SeedAndKDecideTheText) {
  const auto with = [](int64_t k, uint64_t seed) {
    return generate_tokens({.k = k, .tokens = 40, .memory = 4, .sampling = {.seed = seed}});
  };
  EXPECT_EQ(with(2, 1), with(2, 1));
  EXPECT_NE(with(2, 1), with(2, 2));
  EXPECT_NE(with(1, 1), with(4, 1));
}

TEST(Generate, StopsWhereItIsTold) {
  const auto model = testing::fixture_model(false);
  int calls = 0;
  generate(*model, {1}, {.tokens = 10, .memory = 4}, [&](int64_t) { return ++calls < 3; });
  EXPECT_EQ(calls, 3);
  EXPECT_TRUE(generate_tokens({.tokens = 0}).empty());
}

}  // namespace
}  // namespace smoe
