#include "bench/samples_json.h"

#include <nlohmann/json.hpp>

namespace smoe::bench {

void add_spread(nlohmann::ordered_json& json, const std::string& name, const Samples& samples, double unit) {
  json[name] = nullptr;
  json[name + "_quartiles"] = nullptr;
  if (samples.size() == 0) return;
  json[name] = samples.median() / unit;
  json[name + "_quartiles"] = {samples.quantile(0.25) / unit, samples.quantile(0.75) / unit};
}

}  // namespace smoe::bench
