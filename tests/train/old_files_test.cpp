// Files of earlier versions, tests/formats/old: settings that have come since have their defaults.
#include <gtest/gtest.h>

#include <filesystem>

#include "smoe/models/model_folder.h"
#include "smoe/train/evaluate.h"

namespace smoe {
namespace {

const std::filesystem::path kOld =
    std::filesystem::path(__FILE__).parent_path().parent_path() / "formats/old/checkpoint";

TEST(OldFiles, ConfigIsRead) {
  const ModelCard card = read_model_card(kOld);
  EXPECT_EQ(card.spec.moe.experts, 16);
  EXPECT_EQ(card.spec.moe.networks(), 16);
  EXPECT_EQ(card.spec.model.ffn_dropout, "plain");
  EXPECT_FALSE(card.spec.has_mixture_attention());
  EXPECT_EQ(card.default_k, 0);
}

TEST(OldFiles, RecipeIsRead) {
  const std::optional<Recipe> recipe = recorded_recipe(kOld);
  ASSERT_TRUE(recipe.has_value());
  EXPECT_EQ(recipe->train.steps, 1172);
  EXPECT_EQ(recipe->k_schedule.min, 2);
  EXPECT_EQ(recipe->freeze.router, 1);
  EXPECT_FALSE(recipe->average.is_on());
  EXPECT_FALSE(recipe->losses.any());
  EXPECT_EQ(recipe->objective.output_z, 0);
}

}  // namespace
}  // namespace smoe
