// Spawning experts: an event, after which each mixture has E experts that were one.
#pragma once

#include <cstdint>
#include <string>

#include "smoe/base/config.h"
#include "smoe/tensor/random_stream.h"

namespace torch::nn {
class Module;
}

namespace smoe {

struct ModelSpec;

/// The table [spawn] of a recipe: until the share `at` of the training, each mixture has one expert, which all tokens take;
/// then it has all of them, copies of the one that are made different (Nie et al., "EvoMoE", 2021, expert-diversify).
struct SpawnConfig {
  double at = 0;
  std::string diversify = "mask";
  double amount = 0.1;

  void describe(Fields& fields);

  /// Throws UserError where the model, or the groups of experts that the device balance is over, cannot begin with one
  /// expert.
  void check(const ModelSpec& spec, int64_t devices) const;

  bool is_on() const { return at > 0; }
  /// The number of updates after which experts are spawned: the share of the `steps`, to the nearest.
  int64_t step(int64_t steps) const;
  /// The model as it is after so many updates: as `spec` says, or with one expert in each mixture.
  ModelSpec spec_at(ModelSpec spec, int64_t step, int64_t steps) const;
};

/// Makes `many` what becomes of `one`, a model of the same spec but for its one expert a mixture: each expert is a copy of
/// the one; other parameters of the same shape are taken over; routers whose shapes follow E stay as they were drawn.
/// Copies then differ in their matrices, by numbers of `random`: "mask" sets the share `amount` of each copy's elements to
/// 0, "noise" adds Normal(0, (amount · the matrix's standard deviation)²), "none" leaves them equal.
void spawn(const torch::nn::Module& one, torch::nn::Module& many, const SpawnConfig& config,
           const RandomStream& random);

}  // namespace smoe
