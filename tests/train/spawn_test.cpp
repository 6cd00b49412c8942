// Mixtures that begin with one expert.
#include "smoe/train/spawn.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <map>
#include <sstream>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/models/model_parts.h"
#include "smoe/train/trainer.h"
#include "tests/base/temp_folder.h"
#include "tests/train/tiny_run.h"

namespace smoe {
namespace {

using testing::kNoStop;
using testing::kStopAtOnce;
using testing::last_tensors;
using testing::output;

ModelSpec small_spec(const std::string& router = "learned") {
  ModelSpec spec;
  spec.model.layers = 2;
  spec.model.width = 16;
  spec.model.heads = 2;
  spec.model.head_width = 8;
  spec.model.dropout = 0;
  spec.moe.experts = 5;
  spec.moe.expert_width = 12;
  spec.moe.router = router;
  spec.vocabulary = 20;
  return spec;
}

/// The model with one expert a mixture, and what it becomes.
struct Pair {
  std::shared_ptr<LanguageModel> one, many;
};

Pair pair_of(const ModelSpec& spec, const SpawnConfig& config) {
  Pair pair{make_model(config.spec_at(spec, 0, 100), RandomStream(1)), make_model(spec, RandomStream(2))};
  for (const auto& [name, value] : named_tensors(*pair.one)) {
    const torch::NoGradGuard no_grad;
    RandomStream(3).at(name).fill_normal(value, 0, 0.3);  // biases too
  }
  spawn(*pair.one, *pair.many, config, RandomStream(4));
  return pair;
}

Recipe spawning_recipe(const std::filesystem::path& folder) {
  Recipe recipe = testing::tiny_recipe(folder);
  recipe.moe.router = "evomoe";
  recipe.k_schedule = {.kind = "constant", .min = 1, .max = 1};
  recipe.spawn.at = 0.5;
  return recipe;
}

TEST(Spawn, EqualCopiesAnswerAsTheOneDid) {
  // Where weights sum to 1: at any k.
  const Pair pair = pair_of(small_spec(), {.at = 0.5, .diversify = "none"});
  const at::Tensor want = output(*pair.one, 1);
  for (const int64_t k : {1, 2, 5}) EXPECT_TRUE(torch::allclose(output(*pair.many, k), want, 1e-5, 1e-5)) << k;
  // Weights that are not renormalised sum to 1 over all experts only.
  const Pair plain = pair_of(small_spec("evomoe"), {.at = 0.5, .diversify = "none"});
  EXPECT_TRUE(torch::allclose(output(*plain.many, 5), output(*plain.one, 1), 1e-5, 1e-5));
  EXPECT_FALSE(torch::allclose(output(*plain.many, 1), output(*plain.one, 1), 1e-3, 1e-3));
}

TEST(Spawn, TakesEverythingOverButTheRouters) {
  const Pair pair = pair_of(small_spec(), {.at = 0.5, .diversify = "none"});
  const auto one = pair.one->named_parameters();
  const auto drawn = make_model(small_spec(), RandomStream(2));
  const auto fresh = drawn->named_parameters();
  for (const auto& [name, value] : named_tensors(*pair.many)) {
    const bool of_router = part_of(name) == "router";
    EXPECT_TRUE(torch::equal(value, of_router ? fresh[name] : one[name].expand_as(value))) << name;
  }
}

TEST(Spawn, MaskedCopiesLackTheirShareOfElements) {
  const Pair pair = pair_of(small_spec(), {.at = 0.5, .diversify = "mask", .amount = 0.25});
  const auto one = pair.one->named_parameters();
  double zeros = 0, all = 0;
  for (const auto& [name, value] : named_tensors(*pair.many)) {
    if (part_of(name) != "experts") continue;
    const at::Tensor whole = one[name].expand_as(value), gone = value.eq(0);
    EXPECT_TRUE(value.eq(whole).logical_or(gone).all().item<bool>()) << name;
    if (value.dim() == 2) {
      EXPECT_FALSE(gone.any().item<bool>()) << "biases stay: " << name;
      continue;
    }
    for (int64_t e = 1; e < value.size(0); ++e) EXPECT_FALSE(torch::equal(gone[0], gone[e])) << name;
    zeros += gone.sum().item<double>();
    all += static_cast<double>(gone.numel());
  }
  EXPECT_NEAR(zeros / all, 0.25, 0.02);
}

TEST(Spawn, NoisyCopiesDifferByTheirShare) {
  const Pair pair = pair_of(small_spec(), {.at = 0.5, .diversify = "noise", .amount = 0.2});
  const at::Tensor one = pair.one->named_parameters()["layers.0.moe.experts.0.w1"];
  const at::Tensor many = pair.many->named_parameters()["layers.0.moe.experts.0.w1"];
  const at::Tensor difference = (many - one).detach();
  EXPECT_NEAR((difference.std() / one.detach().std()).item<double>(), 0.2, 0.02);
  EXPECT_FALSE(torch::allclose(difference[0], difference[1], 1e-2, 1e-2));
}

TEST(Spawn, ARunHasOneExpertUntilItsStepAndAllAfter) {
  const TempFolder folder;
  const Recipe recipe = spawning_recipe(folder.path());
  const std::filesystem::path run = folder.path() / "run";
  auto trainer = start_training(recipe, run);
  EXPECT_EQ(trainer->model().spec().moe.experts, 1);
  for (int step = 0; step < 6; ++step) trainer->train_step(nullptr);
  EXPECT_EQ(trainer->model().spec().moe.experts, 4);
  trainer->run(kNoStop, nullptr);
  trainer.reset();
  EXPECT_EQ(last_tensors(run).at("layers.0.moe.experts.0.w1").size(0), 4);
  EXPECT_EQ(load_model(resolve_model(run, CheckpointRole::kLast)).model->spec().moe.experts, 4);
}

TEST(Spawn, InTheMetricsAnExpertThatIsNotThereYetHasNoLoad) {
  const TempFolder folder;
  Recipe recipe = spawning_recipe(folder.path());
  recipe.train.log_every = 1;
  const std::filesystem::path run = folder.path() / "run";
  start_training(recipe, run)->run(kNoStop, nullptr);
  std::istringstream lines(read_file(run / "metrics.jsonl"));
  int seen = 0;
  for (std::string text; std::getline(lines, text);) {
    const auto line = nlohmann::json::parse(text);
    if (line.contains("split")) continue;
    const std::vector<double> load = line["layers"][0]["load"];
    ASSERT_EQ(load.size(), 4u) << text;
    EXPECT_EQ(load == std::vector<double>({1, 0, 0, 0}), line["step"] <= 6) << text;
    ++seen;
  }
  EXPECT_EQ(seen, recipe.train.steps);
}

TEST(Spawn, TheOptimizerRemembersWhatStaysAndStartsAnewWithExperts) {
  const TempFolder folder;
  const Recipe recipe = spawning_recipe(folder.path());
  const std::filesystem::path run = folder.path() / "run";
  start_training(recipe, run)->run(kNoStop, nullptr);
  for (const auto& [name, value] : last_tensors(run, "trainer.safetensors")) {
    if (!name.starts_with("adam.updates.")) continue;
    const std::string part = part_of(name);
    const bool is_new = part == "experts" || part == "router";
    EXPECT_EQ(value.item<int64_t>(), is_new ? 6 : 12) << name;
  }
}

TEST(Spawn, StoppingAndGoingOnChangesNothing) {
  const TempFolder folder;
  Recipe recipe = spawning_recipe(folder.path());
  recipe.freeze.layers = 0.25;  // an event before it, which holds after it too
  recipe.freeze.router = 0.75;
  start_training(recipe, folder.path() / "whole")->run(kNoStop, nullptr);
  const std::filesystem::path pieces = folder.path() / "pieces";
  start_training(recipe, pieces)->run(kStopAtOnce, nullptr);
  for (int64_t step = 1; step < recipe.train.steps; ++step) {
    Trainer(RunFolder::open(pieces), recipe).run(kStopAtOnce, nullptr);
  }
  for (const char* file : {"model.safetensors", "trainer.safetensors"}) {
    const auto want = last_tensors(folder.path() / "whole", file), got = last_tensors(pieces, file);
    ASSERT_EQ(want.size(), got.size());
    for (const auto& [name, value] : want) EXPECT_TRUE(torch::equal(value, got.at(name))) << name;
  }
}

TEST(Spawn, AtTheEndThereIsOneExpertToTheEnd) {
  const SpawnConfig never{.at = 0}, last{.at = 1};
  EXPECT_FALSE(never.is_on());
  EXPECT_EQ(never.spec_at(small_spec(), 0, 10).moe.experts, 5);
  EXPECT_EQ(last.spec_at(small_spec(), 9, 10).moe.experts, 1);
  EXPECT_EQ(last.spec_at(small_spec(), 10, 10).moe.experts, 5);
  EXPECT_EQ((SpawnConfig{.at = 0.25}).step(10), 3);  // halves go up
}

TEST(Spawn, RefusesWhatCannotBeginWithOneExpert) {
  const auto fault = [](const std::function<void(Recipe&)>& change) {
    Recipe recipe;
    recipe.spawn.at = 0.5;
    change(recipe);
    return message_of([&] { recipe.check(); });
  };
  EXPECT_EQ(fault([](Recipe&) {}), "(nothing was thrown)");
  EXPECT_EQ(fault([](Recipe& r) { r.model.moe_layers = {.all = false, .ids = {}}; }),
            "spawn.at = 0.5, but the model has no mixtures; leave it at 0");
  EXPECT_NE(fault([](Recipe& r) { r.moe.null_experts = 2; }).find("experts that are no networks"), std::string::npos);
  EXPECT_NE(fault([](Recipe& r) { r.moe.router = "expert_choice"; }).find("the dial of the router 'expert_choice'"),
            std::string::npos);
  EXPECT_NE(fault([](Recipe& r) {
              r.moe.router = "learned";
              r.losses.devices = 4;
            }).find("losses.devices = 4 does not divide one expert"),
            std::string::npos);
  EXPECT_NE(fault([](Recipe& r) { r.average.start = 0.25; }).find("average.start = 0.25 is before spawn.at = 0.5"),
            std::string::npos);
}

}  // namespace
}  // namespace smoe
