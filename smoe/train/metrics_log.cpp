#include "smoe/train/metrics_log.h"

#include <algorithm>
#include <chrono>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"

namespace smoe {

EventLog::Scalars scalars_of(const nlohmann::ordered_json& line) {
  EventLog::Scalars scalars;
  const auto add = [&](const std::string& tag, const nlohmann::ordered_json& value) {
    if (value.is_number()) scalars.emplace_back(tag, value.get<double>());
  };
  if (line.contains("split")) {
    const auto& k = line.at("k");
    const std::string which = k.is_null() ? "dense" : concat("k_", k.get<int64_t>());
    add(line.at("split").get<std::string>() + "_bpc/" + which, line.at("bpc"));
    return scalars;
  }
  for (const char* key : {"loss", "bpc", "k", "lr", "grad_norm"}) add(concat("train/", key), line.at(key));
  if (line.contains("losses")) {
    for (const auto& [name, value] : line.at("losses").items()) add("losses/" + name, value);
  }
  int64_t number = 0;
  for (const auto& layer : line.at("layers")) {
    const std::string name = concat("/layer_", number++);
    const auto load = layer.at("load").get<std::vector<double>>();
    const double most = load.empty() ? 0 : *std::max_element(load.begin(), load.end());
    add("entropy" + name, layer.at("entropy"));
    add("load_max_over_mean" + name, most * static_cast<double>(load.size()));  // the loads add up to 1
    add("dropped" + name, layer.at("dropped"));
  }
  return scalars;
}

MetricsLog::MetricsLog(const std::filesystem::path& run, int64_t keep_through)
    : lines_(run / "metrics.jsonl", keep_through), events_(run / kEventLogName, keep_through) {}

void MetricsLog::write(const nlohmann::ordered_json& line) {
  lines_.write(line);
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  events_.write(line.at("step").get<int64_t>(), now.count(), scalars_of(line));
}

void MetricsLog::sync() {
  lines_.sync();
  events_.sync();
}

}  // namespace smoe
