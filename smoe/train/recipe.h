// A recipe: all settings of a run, as one TOML file says them.
#pragma once

#include <cstdint>
#include <string>

#include "smoe/base/config.h"
#include "smoe/data/corpus.h"
#include "smoe/models/config.h"
#include "smoe/moe/k_schedule.h"
#include "smoe/moe/losses.h"
#include "smoe/train/freeze.h"
#include "smoe/train/objective_config.h"
#include "smoe/train/spawn.h"
#include "smoe/train/weight_average.h"

namespace smoe {

/// The table [train]. The defaults are the published setting for enwik8.
struct TrainConfig {
  int64_t batch = 22;
  int64_t segment = 512;
  int64_t memory = 512;
  int64_t accumulate = 1;
  int64_t steps = 400000;
  int64_t log_every = 200;
  int64_t eval_every = 4000;
  int64_t eval_batch = 10;
  int64_t eval_segment = 128;
  int64_t eval_tokens = 0;
  int64_t small_k = 2;
  int64_t checkpoint_every = 4000;
  int64_t keep_last = 2;
  int64_t seed = 1111;
  std::string init = {};
  int64_t threads = 0;
  std::string device = "cpu";
  std::string dtype = "fp32";

  void describe(Fields& fields);
};

/// The table [optimizer].
struct OptimizerConfig {
  std::string kind = "adam";
  double lr = 2.5e-4;
  std::string schedule = "cosine";
  int64_t warmup = 0;
  double clip_norm = 0.25;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;

  void describe(Fields& fields);
};

struct Recipe {
  ModelConfig model;
  MoeConfig moe;
  KScheduleConfig k_schedule;
  ObjectiveConfig objective;
  LossConfig losses;
  DataConfig data;
  TrainConfig train;
  OptimizerConfig optimizer;
  FreezeConfig freeze;
  AverageConfig average;
  SpawnConfig spawn;

  /// All fields of the recipe; they point into this object.
  Fields fields();

  /// Throws UserError where fields contradict each other.
  void check() const;

  ModelSpec spec(int64_t vocabulary) const { return {model, moe, vocabulary}; }
  /// k over the steps of the run; a schedule that draws k draws it from the run's seed.
  KSchedule schedule_of_k() const;
};

/// The learning rate of update `update` (0-based) of `steps`: lr times the schedule's factor, times (update + 1)/warmup
/// during warm-up. cosine: ½(1 + cos(π·update/steps)); linear: 1 − update/steps; constant: 1.
double learning_rate(const OptimizerConfig& config, int64_t update, int64_t steps);

}  // namespace smoe
