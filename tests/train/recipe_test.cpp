#include "smoe/train/recipe.h"

#include <gtest/gtest.h>

#include "smoe/base/error.h"

namespace smoe {
namespace {

std::string refusal(const Recipe& recipe) {
  try {
    recipe.check();
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

TEST(Recipe, TheDefaultsAreThePublishedSetting) {
  Recipe recipe;
  EXPECT_EQ(refusal(recipe), "");
  EXPECT_EQ(recipe.moe.experts * recipe.moe.expert_width, 8192);
  EXPECT_EQ(recipe.train.steps, 400000);
  EXPECT_EQ(recipe.optimizer.clip_norm, 0.25);
}

TEST(Recipe, TomlRoundTrip) {
  Recipe recipe;
  recipe.optimizer.lr = 0.1 + 0.2;  // not a short decimal
  recipe.model.moe_layers = {.all = false, .ids = {0, 2}};
  Recipe read;
  read_toml(read.fields(), to_toml(recipe.fields()), "test");
  EXPECT_EQ(read.optimizer.lr, recipe.optimizer.lr);
  EXPECT_EQ(to_toml(read.fields()), to_toml(recipe.fields()));
}

TEST(Recipe, ContradictionsAreNamed) {
  Recipe recipe;
  recipe.moe.experts = 8;
  EXPECT_NE(refusal(recipe).find("k_schedule.max = 16"), std::string::npos);
  recipe.model.moe_layers = {};  // a dense model does not care
  EXPECT_EQ(refusal(recipe), "");
  recipe = {};
  recipe.train.accumulate = 3;
  EXPECT_NE(refusal(recipe).find("train.accumulate"), std::string::npos);
  recipe = {};
  recipe.model.width = 7;
  EXPECT_NE(refusal(recipe).find("even"), std::string::npos);
  recipe = {};
  recipe.train.eval_segment = 2000;
  EXPECT_NE(refusal(recipe).find("eval_segment"), std::string::npos);
}

TEST(Recipe, SizesThatOverflowAreNamed) {
  Recipe recipe;
  const Recipe published;
  recipe.model.width = int64_t{1} << 62;
  EXPECT_NE(refusal(recipe).find("model.width"), std::string::npos);
  recipe.model.width = 100'000'000;
  EXPECT_NE(refusal(recipe).find("parameters"), std::string::npos);
  recipe = published;
  recipe.moe.experts = 8192, recipe.moe.expert_width = int64_t{1} << 60;
  EXPECT_NE(refusal(recipe).find("moe.expert_width"), std::string::npos);
  recipe.model.moe_layers = {};  // a dense model has none of them
  EXPECT_EQ(refusal(recipe), "");
  EXPECT_THROW(read_toml(recipe.fields(), "[model]\nlayers = 9223372036854775807\n", "test"), UserError);
  EXPECT_THROW(read_toml(recipe.fields(), "[train]\nbatch = 9223372036854775807\n", "test"), UserError);
  EXPECT_THROW(read_toml(recipe.fields(), "[train]\nsegment = 4611686018427387904\n", "test"), UserError);
}

TEST(Recipe, WhatDoesNotGoTogetherIsRefused) {
  Recipe recipe;
  recipe.moe.router = "learned";
  recipe.losses.device_balance = 0.05;
  recipe.losses.devices = 3;
  EXPECT_NE(refusal(recipe).find("losses.devices = 3 does not divide moe.experts = 16"), std::string::npos);
  recipe.losses.devices = 4;
  EXPECT_EQ(refusal(recipe), "");
  recipe.moe.network_share = 0.75;  // capacities by class, and one class only
  EXPECT_NE(refusal(recipe).find("moe.network_share = 0.75 needs experts that are no networks"), std::string::npos);
  recipe.moe.null_experts = 16;
  EXPECT_NE(refusal(recipe).find("leaves no network"), std::string::npos);
  recipe.moe.null_experts = 8;
  EXPECT_EQ(refusal(recipe), "");
}

TEST(LearningRate, CosineOfThePublishedRun) {
  const OptimizerConfig config;
  EXPECT_EQ(learning_rate(config, 0, 400000), 2.5e-4);
  EXPECT_NEAR(learning_rate(config, 100000, 400000), 2.1339e-4, 5e-9);
  EXPECT_NEAR(learning_rate(config, 200000, 400000), 1.25e-4, 1e-12);
  EXPECT_NEAR(learning_rate(config, 300000, 400000), 3.6612e-5, 5e-10);
  EXPECT_NEAR(learning_rate(config, 400000, 400000), 0, 1e-18);
  EXPECT_NEAR(learning_rate(config, 500000, 400000), 0, 1e-18);
}

TEST(LearningRate, WarmupAndOtherSchedules) {
  OptimizerConfig config{.lr = 1, .schedule = "constant", .warmup = 4};
  EXPECT_DOUBLE_EQ(learning_rate(config, 0, 10), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate(config, 3, 10), 1);
  EXPECT_DOUBLE_EQ(learning_rate(config, 9, 10), 1);
  config.schedule = "linear";
  config.warmup = 0;
  EXPECT_DOUBLE_EQ(learning_rate(config, 5, 10), 0.5);
}

}  // namespace
}  // namespace smoe
