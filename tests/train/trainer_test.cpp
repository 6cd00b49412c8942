#include "smoe/train/trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "tests/base/temp_folder.h"
#include "tests/train/tiny_run.h"

namespace smoe {
namespace {

using testing::kNoStop;
using testing::last_tensors;
using testing::tiny_recipe;

/// Trains to the end and returns the run's folder.
std::filesystem::path train(const Recipe& recipe, const std::filesystem::path& out) {
  const auto trainer = start_training(recipe, out);
  EXPECT_TRUE(trainer->run(kNoStop, nullptr));
  return out;
}

TEST(Trainer, TheRouterStaysAsItWasDrawn) {
  TempFolder folder;
  const Recipe recipe = tiny_recipe(folder.path());
  const auto after = last_tensors(train(recipe, folder.path() / "run"));
  const auto fresh = make_model(recipe.spec(256), RandomStream(3).at("weights"));
  int routers = 0;
  for (const auto& [name, tensor] : named_tensors(*fresh)) {
    const bool is_router = name.find(".router.") != std::string::npos;
    routers += is_router;
    EXPECT_EQ(torch::equal(tensor.detach(), after.at(name)), is_router) << name;
  }
  EXPECT_EQ(routers, 4);  // weight and bias of two layers
}

TEST(Trainer, SaysWhenThePartsOfAStepAreDone) {
  TempFolder folder;
  Recipe recipe = tiny_recipe(folder.path());
  recipe.train.accumulate = 2;
  const auto trainer = start_training(recipe, folder.path() / "run");
  std::vector<std::string> parts;
  trainer->listen([&](const char* part) { parts.emplace_back(part); });
  const Trainer::StepResult result = trainer->train_step(nullptr);
  EXPECT_EQ(parts, (std::vector<std::string>{"data", "forward", "loss", "backward", "forward", "loss", "backward",
                                             "norm", "optimizer"}));
  EXPECT_EQ(trainer->step(), 1);
  EXPECT_EQ(result.k, 1);
  EXPECT_EQ(result.tokens, 2 * 16);
  EXPECT_TRUE(std::isfinite(result.loss) && result.gradient_norm > 0);
  trainer->listen(nullptr);
  trainer->train_step(nullptr);
  EXPECT_EQ(parts.size(), 9u);
}

TEST(Trainer, AccumulatedMicroBatchesGiveTheSameStep) {
  TempFolder folder;
  Recipe recipe = tiny_recipe(folder.path());
  recipe.train.steps = 2;
  recipe.model.dropout = 0;  // masks belong to a micro-batch
  const auto whole = last_tensors(train(recipe, folder.path() / "whole"));
  recipe.train.accumulate = 2;
  const auto halves = last_tensors(train(recipe, folder.path() / "halves"));
  // Adam divides by the root of a tiny second moment, so rounding of tiny gradients shows; one update is at most lr.
  for (const auto& [name, tensor] : whole) {
    const at::Tensor difference = (tensor - halves.at(name)).abs();
    EXPECT_LT(difference.mean().item<double>(), 2e-6) << name;
  }
}

TEST(Trainer, GlobalBalanceIsTheBalanceOfWhatAStepHasSeen) {
  TempFolder folder;
  int runs = 0;
  // The loss of the first step by name, and the norm of its gradient.
  const auto first_step = [&](double LossConfig::* loss, int64_t accumulate) {
    Recipe recipe = tiny_recipe(folder.path());
    recipe.moe.router = "learned";
    recipe.losses.*loss = 0.5;
    recipe.train.accumulate = accumulate;
    const auto trainer = start_training(recipe, folder.path() / std::to_string(runs++));
    const Trainer::StepResult result = trainer->train_step(nullptr);
    EXPECT_EQ(result.losses.size(), 1u);
    return std::pair(result.losses.at(0).second, result.gradient_norm);
  };
  // One micro-batch: no more is seen than it.
  const auto one = first_step(&LossConfig::balance, 1), pooled = first_step(&LossConfig::global_balance, 1);
  EXPECT_NEAR(pooled.first, one.first, 1e-5);
  EXPECT_NEAR(pooled.second, one.second, 1e-5 * one.second);
  // Two: the first half of the step is the same, the second sees both.
  const auto halves = first_step(&LossConfig::balance, 2), global = first_step(&LossConfig::global_balance, 2);
  EXPECT_GT(std::abs(global.first - halves.first), 1e-5);
  EXPECT_NE(global.second, halves.second);
}

TEST(Trainer, MetricsSayWhatTheRunDid) {
  TempFolder folder;
  const std::filesystem::path run = train(tiny_recipe(folder.path()), folder.path() / "run");
  std::vector<nlohmann::json> steps, evaluations;
  std::istringstream lines(read_file(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    (json.contains("split") ? evaluations : steps).push_back(json);
  }
  ASSERT_EQ(steps.size(), 4u);  // every third of twelve steps
  const KSchedule schedule({.kind = "linear", .min = 1, .max = 4}, 12, RandomStream(0));
  for (const auto& line : steps) {
    const int64_t step = line["step"];
    EXPECT_EQ(line["tokens"], step * 32);
    EXPECT_EQ(line["k"], schedule.k(step - 1));
    EXPECT_NEAR(line["bpc"].get<double>(), line["loss"].get<double>() / std::log(2), 1e-12);
    ASSERT_EQ(line["layers"].size(), 2u);
    double load = 0;
    for (const double share : line["layers"][0]["load"]) load += share;
    EXPECT_NEAR(load, 1, 1e-12);
    EXPECT_EQ(line["layers"][0]["dropped"], 0);
    EXPECT_LE(line["layers"][0]["entropy"].get<double>(), std::log(4.0) + 1e-6);
  }
  ASSERT_EQ(evaluations.size(), 4u);  // at two steps, at k = E and at the small k
  EXPECT_EQ(evaluations[0]["k"], 4);
  EXPECT_EQ(evaluations[1]["k"], 2);
}

TEST(Trainer, EvaluationOfACheckpointIsThatOfTheRun) {
  TempFolder folder;
  const Recipe recipe = tiny_recipe(folder.path());
  const std::filesystem::path run = train(recipe, folder.path() / "run");
  const CheckpointIndex index = read_checkpoint_index(run / "checkpoints");
  LoadedModel loaded = load_model(resolve_model(run, CheckpointRole::kBestFull));
  const CorpusFiles files(recipe.data.path);
  const TokenSequence valid(files.bytes(Split::kValid), loaded.vocabulary, "valid");
  const EvalResult result = evaluate(*loaded.model, valid, eval_lengths(recipe.train), 4, "valid");
  EXPECT_EQ(result.nll, index.best_full.nll);
  EXPECT_EQ(result.mean_active_experts, 4);
  EXPECT_EQ(result.tokens, 2 * (400 / 2 - 1));
}

TEST(Evaluate, IsTheMeanOverAllTargetsWhateverTheSegments) {
  TempFolder folder;
  const Recipe recipe = tiny_recipe(folder.path());
  const auto model = make_model(recipe.spec(256), RandomStream(1));
  const CorpusFiles files(recipe.data.path);
  const TokenSequence valid(files.bytes(Split::kValid), ByteVocabulary::bytes(), "valid");
  const auto nll = [&](int64_t segment) {
    return evaluate(*model, valid, {.batch = 3, .segment = segment, .memory = 1000}, 2, "valid");
  };
  const EvalResult whole = nll(1000);
  EXPECT_EQ(whole.tokens, 3 * (400 / 3 - 1));
  for (const int64_t segment : {1, 7, 50}) EXPECT_NEAR(nll(segment).nll, whole.nll, 1e-5);
}

TEST(Evaluate, UsesFewerStreamsForAShortTextAndRefusesNone) {
  TempFolder folder;
  const auto model = make_model(tiny_recipe(folder.path()).spec(256), RandomStream(1));
  const std::string text = "abcde";
  const TokenSequence five(as_bytes(text), ByteVocabulary::bytes(), "five");
  EXPECT_EQ(evaluate(*model, five, {}, 1, "five").tokens, 2);
  const TokenSequence one(as_bytes(text).first(1), ByteVocabulary::bytes(), "one");
  EXPECT_THROW(evaluate(*model, one, {}, 1, "one"), UserError);
}

TEST(Trainer, StopsBeforeAStepThatIsNotFinite) {
  TempFolder folder;
  const Recipe recipe = tiny_recipe(folder.path());
  RunFolder run = RunFolder::create(folder.path() / "run", recipe);
  Trainer trainer(run, recipe);
  {
    const torch::NoGradGuard no_grad;
    for (const auto& item : trainer.model().named_parameters()) {
      if (item.key() == "layers.1.moe.experts.0.b2") item.value().fill_(std::nan(""));
    }
  }
  try {
    trainer.run(kNoStop, nullptr);
    FAIL() << "a NaN went unnoticed";
  } catch (const Failure& failure) {
    EXPECT_NE(std::string(failure.what()).find("step 1: the loss is not finite; it began in layers.1.moe"),
              std::string::npos)
        << failure.what();
  }
  EXPECT_NO_THROW(load_model(resolve_model(folder.path() / "run", CheckpointRole::kLast)));
}

TEST(Trainer, OnePerRun) {
  TempFolder folder;
  const Recipe recipe = tiny_recipe(folder.path());
  const RunFolder run = RunFolder::create(folder.path() / "run", recipe);
  EXPECT_THROW(RunFolder::open(folder.path() / "run"), UserError);
}

TEST(CheckpointStore, KeepsTheLastAndTheBest) {
  TempFolder folder;
  const auto write = [](const std::filesystem::path& path) { write_file_atomic(path / "file", "x"); };
  CheckpointStore store(folder.path(), 2);
  store.save(1, {.full = 3.0, .small = 5.0}, write);
  store.save(2, {.full = 2.0, .small = 4.0}, write);
  store.save(3, {.full = 2.5, .small = 3.0}, write);
  for (const int64_t step : {4, 5, 6}) store.save(step, {}, write);
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"step-00000002", "step-00000003", "step-00000005", "step-00000006"}));
  EXPECT_EQ(store.index().best_full.name, "step-00000002");
  EXPECT_EQ(store.index().best_small.name, "step-00000003");

  // What a killed process leaves behind goes; what the index knows stays.
  std::filesystem::create_directory(folder.path() / ".saving-step-00000007");
  std::filesystem::create_directory(folder.path() / "step-00000007");
  CheckpointStore again(folder.path(), 2);
  again.remove_stale();
  EXPECT_EQ(again.index().last.name, "step-00000006");
  EXPECT_FALSE(std::filesystem::exists(folder.path() / ".saving-step-00000007"));
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "step-00000007"));
}

TEST(CheckpointStore, AFailedSaveLeavesTheOldOnes) {
  TempFolder folder;
  CheckpointStore store(folder.path(), 2);
  store.save(1, {.full = 1.0, .small = 1.0},
             [](const std::filesystem::path& path) { write_file_atomic(path / "a", "x"); });
  EXPECT_THROW(store.save(2, {}, [](const std::filesystem::path&) { throw Failure("disk full"); }), Failure);
  EXPECT_EQ(CheckpointStore(folder.path(), 2).index().last.name, "step-00000001");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 2);
}

TEST(PlateauWatch, WarnsOnceAndOnlyAboutThePlateau) {
  PlateauWatch stuck(4.36, 300);
  int warnings = 0;
  for (int64_t step = 1; step <= 1000; ++step) {
    if (const auto text = stuck.observe(step, 4.4)) {
      ++warnings;
      EXPECT_GE(step, 300);
      EXPECT_NE(text->find("4.36"), std::string::npos);
    }
  }
  EXPECT_EQ(warnings, 1);
  PlateauWatch healthy(4.36, 300);
  for (int64_t step = 1; step <= 1000; ++step) EXPECT_FALSE(healthy.observe(step, step < 250 ? 4.4 : 3.2).has_value());
}

TEST(PlateauWatch, UnigramEntropy) {
  const std::string text = "aabbccdd";
  EXPECT_DOUBLE_EQ(unigram_bits(TokenSequence(as_bytes(text), ByteVocabulary::bytes(), "text")), 2);
}

}  // namespace
}  // namespace smoe
