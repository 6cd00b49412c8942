// Trainings on texts whose language is told. That tokens go to their own expert unforced in the end is a matter of
// tests/cli/languages_test.py.
#include <gtest/gtest.h>
#include <torch/types.h>

#include <atomic>
#include <cmath>
#include <functional>
#include <string>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/json.h"
#include "smoe/train/evaluate.h"
#include "smoe/train/trainer.h"
#include "tests/base/temp_folder.h"
#include "tests/train/tiny_run.h"

namespace smoe {
namespace {

using testing::kNoStop;
using testing::kStopAtOnce;

/// A recipe with a mixture of four experts in the last of two layers, and a table of three languages, each of letters of
/// its own: a to c, d to f, g to i.
Recipe recipe_of(const TempFolder& folder, const std::string& families = "") {
  Recipe recipe = testing::tiny_recipe(folder.path());
  std::string table = families;
  for (int i = 0; i < 3; ++i) {
    const std::string name = std::string("l") + std::to_string(i);
    std::string text = testing::tiny_text(2000);
    for (char& c : text) c = static_cast<char>('a' + 3 * i + static_cast<unsigned char>(c) % 3);
    folder.put(name + ".txt", text);
    table += "[language." + name + "]\nfiles = ['" + name + ".txt']\n";
    if (!families.empty()) table += i == 1 ? "family = 'one'\n" : "family = 'two'\n";
  }
  recipe.data.path = folder.put("languages.toml", table);
  recipe.model.moe_layers = {.all = false, .ids = {1}};
  recipe.moe.router = "post_moe";
  recipe.k_schedule = {.kind = "constant", .min = 2, .max = 2};
  recipe.train.batch = 6;
  return recipe;
}

/// Has `look` called with each routing of a step, and the family of each token.
void look_at_step(Trainer& trainer, const std::function<void(const Routing&, const at::Tensor&)>& look) {
  StatsBook book(StatsBook::Detail::kTerms);
  book.observe([&](const LayerView& seen) { look(seen.routing, seen.input.batch.tags.at(kFamilyTag)); });
  trainer.train_step(&book);
}

TEST(Languages, InTrainingEveryTokenHasTheExpertOfItsLanguage) {
  for (const int64_t accumulate : {1, 3}) {
    const TempFolder folder;
    Recipe recipe = recipe_of(folder);
    recipe.train.accumulate = accumulate;
    const auto trainer = start_training(recipe, folder / "run");
    int64_t seen = 0;
    at::Tensor languages = torch::zeros({4}, torch::kInt64);
    for (int step = 0; step < 3; ++step) {
      look_at_step(*trainer, [&](const Routing& routing, const at::Tensor& family) {
        EXPECT_TRUE(routing.expert.eq(family.unsqueeze(1)).any(-1).all().item<bool>());
        seen += family.numel();
        languages += family.bincount({}, 4);
      });
    }
    EXPECT_EQ(seen, 3 * 6 * 16) << accumulate;
    EXPECT_TRUE(languages.narrow(0, 0, 3).eq(seen / 3).all().item<bool>()) << "two rows of six are of each";
  }
}

TEST(Languages, AFamilyIsAnExpert) {
  const TempFolder folder;
  const auto trainer = start_training(recipe_of(folder, "families = ['one', 'two']\n"), folder / "run");
  look_at_step(*trainer, [](const Routing&, const at::Tensor& family) {
    EXPECT_TRUE(torch::equal(family.bincount({}, 2), torch::tensor({32, 64})));
  });
  const auto environment = read_json_object(folder / "run/environment.json");
  EXPECT_EQ(environment["data"]["families"], nlohmann::ordered_json({"one", "two"}));
}

TEST(Languages, BothPassesOfAnObjectiveHaveThem) {
  const TempFolder folder;
  Recipe recipe = recipe_of(folder);
  recipe.objective.kind = "thor";
  const auto trainer = start_training(recipe, folder / "run");
  EXPECT_TRUE(std::isfinite(trainer->train_step(nullptr).loss));
}

TEST(Languages, OtherRoutersAreTrainedOnTheSameTexts) {
  const TempFolder folder;
  Recipe recipe = recipe_of(folder);
  recipe.moe.router = "learned";
  start_training(recipe, folder / "run")->run(kNoStop, nullptr);
  const LoadedModel model = load_model(resolve_model(folder / "run", CheckpointRole::kLast));
  const CorpusFiles files(recorded_data(model.folder).path);
  const TokenSequence test(files.bytes(Split::kTest), model.vocabulary, "test");
  EXPECT_EQ(test.size(), 3 * 100);
  EXPECT_FALSE(test.has_labels());
  EXPECT_EQ(evaluate(*model.model, test, {.batch = 3, .segment = 16, .memory = 16}, 2, "test").tokens, 3 * 99);
}

TEST(Languages, StoppingAndGoingOnChangesNothing) {
  const TempFolder folder;
  const Recipe recipe = recipe_of(folder);
  start_training(recipe, folder / "whole")->run(kNoStop, nullptr);
  start_training(recipe, folder / "pieces")->run(kStopAtOnce, nullptr);
  Trainer(RunFolder::open(folder / "pieces"), recipe).run(kNoStop, nullptr);
  const auto last = [&](const char* run) {
    return load_tensors(resolve_model(folder / run, CheckpointRole::kLast) / "model.safetensors");
  };
  const NamedTensors want = last("whole"), got = last("pieces");
  ASSERT_EQ(want.size(), got.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(torch::equal(want[i].second, got[i].second)) << want[i].first;
}

TEST(Languages, ATableThatChangedIsOtherData) {
  const TempFolder folder;
  const Recipe recipe = recipe_of(folder);
  start_training(recipe, folder / "run")->run(kStopAtOnce, nullptr);
  recipe_of(folder, "families = ['one', 'two']\n");  // the same texts, the same bytes
  EXPECT_NE(message_of([&] { Trainer(RunFolder::open(folder / "run"), recipe); }).find("is not the text that this run"),
            std::string::npos);
}

TEST(Languages, RefusesTextsOfNoneAndOfTooMany) {
  const TempFolder folder;
  Recipe recipe = recipe_of(folder);
  const auto fault = [&] {
    const std::string message = message_of([&] { start_training(recipe, folder / "run"); });
    EXPECT_FALSE(std::filesystem::exists(folder / "run")) << "a refused run must leave nothing behind";
    return message;
  };
  recipe.moe.experts = recipe.k_schedule.max = recipe.k_schedule.min = recipe.train.small_k = 2;
  EXPECT_EQ(fault(), recipe.data.path +
                         " has 3 families of languages, and moe.experts = 2 leaves 2 networks, an expert "
                         "each: more experts, or fewer families");
  recipe.moe.experts = 4;
  recipe.moe.null_experts = 2;
  EXPECT_NE(fault().find("moe.experts = 4 leaves 2 networks"), std::string::npos);
  recipe.moe.null_experts = 0;
  recipe.data.path = (folder / "l0.txt").string();
  EXPECT_EQ(fault(),
            "the router 'post_moe' is trained on texts whose language is told, and " + recipe.data.path +
                " is one text of none: name a table of languages with --data (docs/formats.md), or take another "
                "moe.router");
  recipe.model.moe_layers.ids.clear();
  EXPECT_EQ(message_of([&] { start_training(recipe, folder / "dense"); }), "(nothing was thrown)");
}

}  // namespace
}  // namespace smoe
