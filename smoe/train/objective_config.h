// Settings of the objective.
#pragma once

#include <string>

#include "smoe/base/config.h"

namespace smoe {

/// The table [objective.thor].
struct ThorObjectiveConfig {
  double alpha = 5;
  std::string form = "thor";

  void describe(Fields& fields);
};

/// The table [objective] of a recipe.
struct ObjectiveConfig {
  std::string kind = "likelihood";
  double output_z = 0;
  ThorObjectiveConfig thor;

  void describe(Fields& fields);
};

}  // namespace smoe
