// Parts of a model that are frozen while it trains.
#include "smoe/train/freeze.h"

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
using testing::TensorMap;
using testing::tiny_recipe;

Recipe learned_recipe(const std::filesystem::path& folder) {
  Recipe recipe = tiny_recipe(folder);
  recipe.moe.router = "learned";
  recipe.k_schedule = {.kind = "constant", .min = 2, .max = 2};
  return recipe;
}

/// The weights before the first step and after each one; the run stops after every step and goes on.
std::vector<TensorMap> weights_by_step(const Recipe& recipe, const std::filesystem::path& run) {
  std::vector<TensorMap> out;
  auto trainer = start_training(recipe, run);
  TensorMap fresh;
  for (const auto& [name, tensor] : named_tensors(trainer->model())) fresh[name] = tensor.detach().clone();
  out.push_back(fresh);
  trainer->run(kStopAtOnce, nullptr);
  trainer.reset();
  for (;;) {
    out.push_back(last_tensors(run));
    if (static_cast<int64_t>(out.size()) == recipe.train.steps + 1) return out;
    Trainer(RunFolder::open(run), recipe).run(kStopAtOnce, nullptr);
  }
}

/// Expects that a parameter of the layers moves in an update if and only if `frozen_from` does not have its part frozen by
/// then; what all layers share always moves.
void expect_frozen_from(const std::vector<TensorMap>& steps, const std::map<std::string, size_t>& frozen_from) {
  for (size_t step = 0; step + 1 < steps.size(); ++step) {
    for (const auto& [name, before] : steps[step]) {
      const auto found = frozen_from.find(part_of(name));
      const bool is_frozen = name.starts_with("layers.") && found != frozen_from.end() && step >= found->second;
      EXPECT_EQ(torch::equal(before, steps[step + 1].at(name)), is_frozen) << name << " in update " << step;
    }
  }
}

TEST(Freeze, AShareFallsToTheNearestStep) {
  const auto parts = [](double share, int64_t step) {
    return frozen_parts({.router = share, .experts = 1, .layers = 1}, step, 10);
  };
  EXPECT_TRUE(parts(1, 10).empty());
  EXPECT_EQ(parts(0, 0).at(0).step, 0);
  EXPECT_TRUE(parts(0.25, 2).empty());
  EXPECT_EQ(parts(0.25, 9).at(0).step, 3);  // halves go up
  EXPECT_EQ(parts(0.29, 9).at(0).step, 3);
  EXPECT_EQ(parts(0.31, 3).at(0).name, "router");
  const auto all = frozen_parts({.router = 0, .experts = 0.5, .layers = 0.7}, 5, 10);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[1].name, "experts");
}

TEST(Freeze, APartMovesUntilItsStepAndNeverAfter) {
  const TempFolder folder;
  Recipe recipe = learned_recipe(folder.path());
  recipe.train.steps = 8;
  recipe.moe.shared_experts = 1;
  recipe.moe.routers.learned.score = "softmax";
  recipe.moe.routers.learned.bias_rate = 0.001;  // which no gradient moves
  recipe.losses.balance = 0.1;
  recipe.optimizer.weight_decay = 0.1;
  recipe.optimizer.kind = "adamw";
  recipe.freeze = {.router = 0.5, .experts = 0.25, .layers = 0.75};
  const std::vector<TensorMap> steps = weights_by_step(recipe, folder.path() / "run");
  // The biases that choose experts do not move where every expert has as many tokens as the mean: not looked at here.
  std::vector<TensorMap> seen = steps;
  for (TensorMap& values : seen)
    std::erase_if(values, [](const auto& v) { return v.first.ends_with("selection_bias"); });
  expect_frozen_from(seen, {{"router", 4}, {"experts", 2}, {"shared experts", 2}, {"attention", 6}, {"norms", 6}});
  const std::string bias = "layers.0.moe.router.selection_bias";
  EXPECT_FALSE(torch::equal(steps[0].at(bias), steps[4].at(bias)));
  for (size_t step = 5; step < steps.size(); ++step) EXPECT_TRUE(torch::equal(steps[4].at(bias), steps[step].at(bias)));
}

TEST(Freeze, DenseLayersAreFrozenWithTheOthers) {
  const TempFolder folder;
  Recipe recipe = learned_recipe(folder.path());
  recipe.train.steps = 4;
  recipe.model.moe_layers = {.all = false, .ids = {1}};
  recipe.freeze.layers = 0;
  const std::vector<TensorMap> steps = weights_by_step(recipe, folder.path() / "run");
  expect_frozen_from(steps, {{"experts", 0}, {"feed-forward", 0}, {"attention", 0}, {"norms", 0}});
}

TEST(Freeze, TheRoutersOfMixtureAttentionAreRoutersToo) {
  const TempFolder folder;
  Recipe recipe = learned_recipe(folder.path());
  recipe.train.steps = 4;
  recipe.model.attention = "mixture";
  recipe.model.mixture = {.layers = {.all = true, .ids = {}}, .experts = 3, .k = 2};
  recipe.model.moe_layers = {.all = false, .ids = {}};
  recipe.freeze.router = 0.5;
  expect_frozen_from(weights_by_step(recipe, folder.path() / "run"), {{"router", 2}});
}

TEST(Freeze, StoppingAndGoingOnChangesNothing) {
  const TempFolder folder;
  Recipe recipe = learned_recipe(folder.path());
  recipe.freeze.router = 0.5;
  start_training(recipe, folder.path() / "whole")->run(kNoStop, nullptr);
  const TensorMap at_once = last_tensors(folder.path() / "whole");
  const TensorMap in_pieces = weights_by_step(recipe, folder.path() / "pieces").back();
  for (const auto& [name, value] : at_once) EXPECT_TRUE(torch::equal(value, in_pieces.at(name))) << name;
}

TEST(Freeze, ALearnedRouterFrozenFromTheStartIsTheRandomFrozenOne) {
  const TempFolder folder;
  Recipe recipe = learned_recipe(folder.path());
  recipe.freeze.router = 0;
  start_training(recipe, folder.path() / "learned")->run(kNoStop, nullptr);
  recipe.moe.router = "random_frozen";
  recipe.freeze.router = 1;
  start_training(recipe, folder.path() / "random")->run(kNoStop, nullptr);
  const TensorMap random = last_tensors(folder.path() / "random");
  for (const auto& [name, value] : last_tensors(folder.path() / "learned")) {
    EXPECT_TRUE(torch::equal(value, random.at(name))) << name;
  }
}

TEST(Freeze, TheOptimizerForgetsWhatIsFrozenAndTheMetricsSaySo) {
  const TempFolder folder;
  Recipe recipe = learned_recipe(folder.path());
  recipe.freeze.router = 0.5;
  const std::filesystem::path run = folder.path() / "run";
  start_training(recipe, run)->run(kNoStop, nullptr);
  const std::string prefix = "adam.mean.";
  size_t moments = 0;
  for (const auto& [name, mean] : last_tensors(run, "trainer.safetensors")) {
    if (!name.starts_with(prefix)) continue;
    EXPECT_NE(part_of(name.substr(prefix.size())), "router") << name;
    ++moments;
  }
  EXPECT_EQ(moments, last_tensors(run).size() - 2);  // a router a layer
  std::istringstream lines(read_file(run / "metrics.jsonl"));
  for (std::string text; std::getline(lines, text);) {
    const auto line = nlohmann::json::parse(text);
    if (line.contains("split")) continue;
    const auto expected = line["step"] >= 6 ? nlohmann::json({{"router", 6}}) : nlohmann::json();
    EXPECT_EQ(line.value("frozen", nlohmann::json()), expected) << text;
  }
}

TEST(Freeze, RefusesWhatMakesNoSense) {
  const auto fault = [](const FreezeConfig& freeze, const std::string& router, bool dense) {
    Recipe recipe;
    recipe.freeze = freeze;
    recipe.moe.router = router;
    if (dense) recipe.model.moe_layers = {.all = false, .ids = {}};
    return message_of([&] { recipe.check(); });
  };
  const std::string nothing = "(nothing was thrown)";
  EXPECT_EQ(fault({}, "random_frozen", true), nothing);
  EXPECT_EQ(fault({.layers = 0.5}, "random_frozen", true), nothing);
  EXPECT_EQ(fault({.router = 0.5}, "learned", false), nothing);
  EXPECT_EQ(fault({.experts = 0.25, .layers = 0.25}, "random_frozen", false), nothing);
  EXPECT_EQ(fault({.router = 0.5}, "random_frozen", false),
            "freeze.router = 0.5, but nothing of the router 'random_frozen' is trained; leave it at 1");
  EXPECT_EQ(fault({.router = 0.5}, "learned", true),
            "freeze.router = 0.5, but the model has no mixtures; leave it at 1");
  EXPECT_EQ(fault({.experts = 0}, "random_frozen", true),
            "freeze.experts = 0, but the model has no experts; leave it at 1");
  EXPECT_EQ(fault({.experts = 0.5, .layers = 0.25}, "random_frozen", false),
            "freeze.experts = 0.5 comes after freeze.layers = 0.25, which freezes the experts too");
}

}  // namespace
}  // namespace smoe
