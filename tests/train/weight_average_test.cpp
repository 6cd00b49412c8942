// The mean of the weights over training.
#include "smoe/train/weight_average.h"

#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>

#include <cmath>
#include <map>
#include <sstream>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
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

TEST(WeightAverage, IsThePlainMeanOfTheSnapshots) {
  torch::nn::Linear layer(3, 2);
  const torch::NoGradGuard no_grad;
  WeightAverage average(*layer);
  EXPECT_TRUE(average.state().empty());
  at::Tensor sum = torch::zeros({2, 3});
  for (int i = 1; i <= 5; ++i) {
    layer->weight.fill_(static_cast<double>(i * i));
    sum += layer->weight;
    average.add(*layer);
  }
  EXPECT_EQ(average.snapshots(), 5);
  const NamedTensors state = average.state();
  EXPECT_EQ(state[0].first, "average.weight");
  EXPECT_TRUE(torch::allclose(state[0].second, sum / 5));

  average.swap(*layer);
  EXPECT_TRUE(torch::allclose(layer->weight, sum / 5));
  average.swap(*layer);
  EXPECT_TRUE(torch::equal(layer->weight, torch::full({2, 3}, 25.0)));
}

TEST(WeightAverage, LeavesWhatDoesNotMoveAsItIs) {
  torch::nn::Linear layer(5, 7);
  const at::Tensor weight = layer->weight.detach().clone();
  WeightAverage average(*layer);
  for (int i = 0; i < 7; ++i) average.add(*layer);
  average.swap(*layer);
  EXPECT_TRUE(torch::equal(layer->weight, weight));
}

TEST(WeightAverage, TakesWhatItIsAskedFor) {
  const auto taken = [](const AverageConfig& config) {
    std::vector<int64_t> steps;
    for (int64_t step = 0; step <= 12; ++step) {
      if (config.takes(step, 5, 12)) steps.push_back(step);
    }
    return steps;
  };
  using Steps = std::vector<int64_t>;
  EXPECT_EQ(taken({}), Steps());
  EXPECT_EQ(taken({.start = 0, .end = 1}), (Steps{5, 10, 12}));
  EXPECT_EQ(taken({.start = 0.5, .end = 1}), (Steps{10, 12}));
  EXPECT_EQ(taken({.start = 0, .end = 0.9}), (Steps{5, 10}));
  EXPECT_EQ(taken({.start = 0.99, .end = 1}), (Steps{12}));
  EXPECT_EQ(taken({.start = 0.5, .end = 0.6}), Steps());
  const AverageConfig backwards{.start = 0.5, .end = 0.25};
  EXPECT_EQ(message_of([&] { backwards.check(); }), "average.start = 0.5 is larger than average.end = 0.25");
}

TEST(WeightAverage, RefusesAStateThatDoesNotFit) {
  torch::nn::Linear layer(3, 2);
  WeightAverage average(*layer);
  average.add(*layer);
  NamedTensors state = average.state();
  WeightAverage again(*layer);
  EXPECT_NO_THROW(again.load_state(state, 1, "file"));
  EXPECT_THROW(again.load_state({}, 1, "file"), UserError);
  EXPECT_THROW(again.load_state(state, 0, "file"), UserError);
  EXPECT_THROW(again.load_state(state, -1, "file"), UserError);
  state.pop_back();
  EXPECT_THROW(again.load_state(state, 1, "file"), UserError);
}

/// The nll of each line of metrics.jsonl for that split and k, by step.
std::map<int64_t, double> evaluations(const std::filesystem::path& run, const std::string& split, int64_t k) {
  std::map<int64_t, double> out;
  std::istringstream metrics(read_file(run / "metrics.jsonl"));
  for (std::string text; std::getline(metrics, text);) {
    const auto line = nlohmann::json::parse(text);
    if (line.value("split", "") == split && line["k"] == k) out[line["step"]] = line["nll"];
  }
  return out;
}

TEST(WeightAverage, IsEvaluatedAndSavedAsAModelBesideTheWeights) {
  const TempFolder folder;
  Recipe recipe = tiny_recipe(folder.path());
  recipe.train.steps = 8;
  recipe.train.eval_every = 2;
  recipe.train.checkpoint_every = 2;
  recipe.train.keep_last = 4;
  const std::filesystem::path plain = folder.path() / "plain", run = folder.path() / "run";
  start_training(recipe, plain)->run(kNoStop, nullptr);
  recipe.average = {.start = 0.5, .end = 1};
  start_training(recipe, run)->run(kNoStop, nullptr);

  // Averaging changes nothing in training itself …
  const TensorMap last = last_tensors(run);
  for (const auto& [name, value] : last_tensors(plain)) EXPECT_TRUE(torch::equal(value, last.at(name))) << name;
  EXPECT_EQ(evaluations(run, "valid", 4), evaluations(plain, "valid", 4));
  // … and what is saved beside it is the mean of the weights after steps 4, 6 and 8.
  TensorMap sum;
  for (const char* step : {"step-00000004", "step-00000006", "step-00000008"}) {
    for (const auto& [name, value] : load_tensors(plain / "checkpoints" / step / "model.safetensors")) {
      sum[name] = sum.contains(name) ? sum[name] + value : value;
    }
  }
  LoadedModel average = load_model(run / "average");
  for (const auto& [name, value] : named_tensors(*average.model)) {
    EXPECT_TRUE(torch::allclose(value, sum.at(name) / 3, 1e-5, 1e-7)) << name;
  }
  EXPECT_EQ(recorded_data(run / "average").step, 8);
  EXPECT_EQ(recorded_recipe(run / "average")->average.start, 0.5);

  // The lines of the metrics are of the mean, and not of the weights.
  const CorpusFiles files(recipe.data.path);
  const TokenSequence valid(files.bytes(Split::kValid), average.vocabulary, "valid");
  for (const int64_t k : {4, 2}) {
    const auto lines = evaluations(run, "valid_average", k);
    EXPECT_EQ(lines.size(), 3u) << "there is no mean yet at step 2";
    EXPECT_EQ(lines.at(4), evaluations(run, "valid", k).at(4)) << "the mean of one";
    EXPECT_NE(lines.at(8), evaluations(run, "valid", k).at(8));
    EXPECT_EQ(lines.at(8),
              evaluate(*average.model, valid, eval_lengths(recipe.train), static_cast<double>(k), "valid").nll);
  }
  EXPECT_TRUE(evaluations(plain, "valid_average", 4).empty());
}

TEST(WeightAverage, StoppingAndGoingOnChangesNothing) {
  const TempFolder folder;
  Recipe recipe = tiny_recipe(folder.path());
  recipe.train.steps = 6;
  recipe.train.eval_every = 2;
  recipe.average = {.start = 0.3, .end = 1};
  const std::filesystem::path whole = folder.path() / "whole", pieces = folder.path() / "pieces";
  start_training(recipe, whole)->run(kNoStop, nullptr);
  start_training(recipe, pieces)->run(kStopAtOnce, nullptr);
  EXPECT_FALSE(std::filesystem::exists(pieces / "average")) << "there is nothing to average yet";
  for (int i = 1; i < 6; ++i) Trainer(RunFolder::open(pieces), recipe).run(kStopAtOnce, nullptr);
  for (const char* file : {"average/model.safetensors", "average/manifest.json", "metrics.jsonl"}) {
    EXPECT_EQ(read_file(whole / file), read_file(pieces / file)) << file;
  }
}

}  // namespace
}  // namespace smoe
