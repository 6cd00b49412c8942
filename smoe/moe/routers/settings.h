// Settings that kinds of router have for themselves: the tables [moe.KIND] of a recipe.
#pragma once

#include <cstdint>
#include <string>

#include "smoe/base/config.h"

namespace smoe {

/// The table [moe.learned].
struct LearnedSettings {
  std::string score = "selected_softmax";
  bool renormalize = false;
  double jitter = 0;
  double bias_rate = 0;

  void describe(Fields& fields);
};

/// The table [moe.switch].
struct SwitchSettings {
  double jitter = 0.01;

  void describe(Fields& fields);
};

/// The table [moe.gshard].
struct GshardSettings {
  bool random_second = true;
  double balance = 0.01;

  void describe(Fields& fields);
};

/// The table [moe.noisy_topk].
struct NoisyTopkSettings {
  double importance = 0.1;
  double load = 0.1;
  double noise_floor = 0.01;

  void describe(Fields& fields);
};

/// The table [moe.random_token].
struct RandomTokenSettings {
  std::string weight = "equal";

  void describe(Fields& fields);
};

/// The table [moe.expert_choice].
struct ExpertChoiceSettings {
  double capacity = 2;

  void describe(Fields& fields);
};

/// The table [moe.hash].
struct HashSettings {
  std::string by = "token";

  void describe(Fields& fields);
};

/// The table [moe.top_p].
struct TopPSettings {
  double threshold = 0.4;

  void describe(Fields& fields);
};

/// The table [moe.drop_gate].
struct DropGateSettings {
  double rate = 0.5;

  void describe(Fields& fields);
};

/// The table [moe.dense_to_sparse].
struct DenseToSparseSettings {
  double max_temperature = 2;
  double min_temperature = 0.3;
  double threshold = 0.001;
  std::string eval_weight = "selected_softmax";

  void describe(Fields& fields);
};

/// The table [moe.adamoe].
struct AdamoeSettings {
  bool weigh_null = false;
  double balance = 0.06;
  double late_balance = 0.0003;
  double late_from = 0.5;

  void describe(Fields& fields);
};

/// The table [moe.moe_pp].
struct MoePpSettings {
  bool renormalize = true;
  double balance = 0.0017;

  void describe(Fields& fields);
};

/// The table [moe.rmoe].
struct RmoeSettings {
  int64_t width = 128;
  bool detach = false;

  void describe(Fields& fields);
};

/// The table [moe.comet].
struct CometSettings {
  int64_t trees = 2;
  double gamma = 1;
  double saturation = 0.1;
  std::string permutation = "none";
  double permutation_until = 0.1;
  double max_temperature = 1e-3;
  double min_temperature = 1e-7;
  double noise = 0;
  double permutation_entropy = 2e-4;

  void describe(Fields& fields);
};

/// The table [moe.evomoe].
struct EvomoeSettings {
  double max_temperature = 1;
  double min_temperature = 0.5;
  std::string decay = "linear";
  double cool_until = 0.5;
  double hard_from = 0.5;
  double threshold = 0.001;
  std::string weight = "softmax";
  double balance = 1;

  void describe(Fields& fields);
};

/// The table [moe.post_moe].
struct PostMoeSettings {
  bool renormalize = true;

  void describe(Fields& fields);
};

/// The table [moe.thor].
struct ThorSettings {
  std::string unit = "batch";
  std::string eval_unit = "token";
  int64_t samples = 1;

  void describe(Fields& fields);
};

/// The settings of all kinds; those of the chosen one are in use.
struct RouterSettings {
  LearnedSettings learned;
  SwitchSettings switch_transformer;
  GshardSettings gshard;
  NoisyTopkSettings noisy_topk;
  HashSettings hash;
  RandomTokenSettings random_token;
  ExpertChoiceSettings expert_choice;
  TopPSettings top_p;
  ThorSettings thor;
  DropGateSettings drop_gate;
  DenseToSparseSettings dense_to_sparse;
  AdamoeSettings adamoe;
  MoePpSettings moe_pp;
  RmoeSettings rmoe;
  CometSettings comet;
  EvomoeSettings evomoe;
  PostMoeSettings post_moe;

  /// Adds a table for each kind; `chosen` is the place of the field moe.router.
  void describe(Fields& fields, const std::string& chosen);
};

}  // namespace smoe
