// smoe bench step: the time of whole training steps of a recipe's model, and of its evaluation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "smoe/train/recipe.h"

namespace smoe::bench {

struct StepOptions {
  int64_t k = 0;                ///< active experts in training; of no meaning for a dense model
  std::vector<int64_t> eval_k;  ///< of the evaluations
  int64_t repeat = 10;          ///< training steps whose time is taken
  bool profile = false;         ///< some steps more, with the time of each operator
};

/// Whether the recipe's model has mixtures, and so a k.
bool has_k(const Recipe& recipe);

/// Trains the recipe's model with `options.k` active experts at every step, on the recipe's data or, where it names none,
/// on random bytes, and evaluates it then. The run lies in a temporary folder, which is removed. What is not timed: the
/// first steps, until the memory of past segments is as long as it gets. The fields are in docs/bench.md.
nlohmann::ordered_json measure_step(Recipe recipe, const StepOptions& options);

}  // namespace smoe::bench
