// Freezing parts of a model: an event, a change at a step that is not a gradient.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "smoe/base/config.h"

namespace torch::nn {
class Module;
}

namespace smoe {

struct ModelSpec;

/// The table [freeze] of a recipe: for each part of a model the share of the training after which it is frozen; 0 freezes
/// it from the start, 1 never. Chen et al., ICLR 2023: the released code's dynamic_router_start is `router` times the
/// steps, its freeze_gate router = 0, freeze_main_network experts = 0, and freeze_main_network_all layers = 0.
struct FreezeConfig {
  double router = 1;
  double experts = 1;
  double layers = 1;

  void describe(Fields& fields);

  /// Throws UserError where a part is to be frozen that the model does not have or that is not trained, or that is frozen
  /// already.
  void check(const ModelSpec& spec) const;
};

/// A part that is frozen, and the number of updates after which it was.
struct FrozenPart {
  std::string name;  ///< "router", "experts" or "layers", as the recipe says
  int64_t step = 0;
};

/// The parts that are frozen once `step` updates of `steps` have been made. A share falls to the nearest step.
std::vector<FrozenPart> frozen_parts(const FreezeConfig& config, int64_t step, int64_t steps);

/// Freezes a part: its parameters ask for no gradient any more, and lose the one they have. Returns the names of those that
/// did. What the optimizer keeps of them has to go as well (TrainOptimizer::forget): its momentum would move them on.
std::vector<std::string> freeze(torch::nn::Module& model, const FrozenPart& part);

}  // namespace smoe
