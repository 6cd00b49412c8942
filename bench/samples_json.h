// Measured numbers as fields of a result.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "bench/samples.h"

namespace smoe::bench {

/// Adds `name`, the median, and `name`_quartiles, the first and the third, in a unit that is `unit` of the samples'; null
/// where there are none.
void add_spread(nlohmann::ordered_json& json, const std::string& name, const Samples& samples, double unit);

}  // namespace smoe::bench
