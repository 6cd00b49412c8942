// How the experts of a run were used over its training, in few enough columns for a map.
#pragma once

#include <cstdint>
#include <vector>

#include "smoe/study/run_record.h"

namespace smoe {

/// Groups of neighbouring training lines.
struct RoutingColumns {
  std::vector<int64_t> step;  ///< of the last line of each group
  /// By layer and group, [E] mean share of each expert, four digits.
  std::vector<std::vector<std::vector<double>>> load;
  std::vector<std::vector<double>> entropy;  ///< by layer and group, mean in nats; NaN where one of the lines has none
};

/// At most `columns` (≥ 1) groups; none of a model without mixtures.
RoutingColumns routing_columns(const std::vector<StepLine>& lines, size_t columns);

}  // namespace smoe
