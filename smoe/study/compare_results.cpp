#include "smoe/study/compare_results.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "smoe/base/build_info.h"
#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/json.h"
#include "smoe/base/quote.h"
#include "smoe/study/json_object.h"
#include "smoe/study/run_record.h"

namespace smoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kRoutingColumns = 60;  // of a run, which is one of many on its page

Json or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

ComparedValue read_value(const JsonObject& json) {
  ComparedValue result{.dial = json.text("dial"),
                       .value = std::nullopt,
                       .bpc = std::nullopt,
                       .mean_active_experts = json.finite("mean_active_experts"),
                       .active_parameters = json.finite("active_parameters"),
                       .flops_per_token = json.finite("flops_per_token")};
  if (!json.is_null("value")) result.value = json.finite("value");
  if (!json.is_null("bpc")) result.bpc = json.finite("bpc");
  return result;
}

/// How the experts were used at the end of the training.
void read_routing(const RunRecord& record, ComparedRun& run) {
  std::vector<double> load, dropped, entropy;
  const size_t count = record.steps.size(), from = count - (count + 9) / 10;
  for (size_t i = from; i < count; ++i) {
    for (const LayerLine& layer : record.steps[i].layers) {
      if (layer.load.empty()) continue;
      load.push_back(*std::max_element(layer.load.begin(), layer.load.end()) * static_cast<double>(layer.load.size()));
      dropped.push_back(layer.dropped);
      entropy.push_back(layer.entropy);
    }
  }
  if (load.empty()) return;
  run.load_max_over_mean = mean_of(load);
  run.dropped = mean_of(dropped);
  run.entropy = mean_of(entropy);
}

ComparedRun read_compared_run(const PlannedRun& planned, const RunPaths& paths, const JsonObject& evaluation) {
  const RunRecord record = read_run(paths.run);
  ComparedRun run{.entry = planned.entry,
                  .path = paths.run.string(),
                  .seed = planned.seed,
                  .parameters = evaluation.integer("parameters"),
                  .results = {}};
  const std::string where = evaluation.where() + ": \"results\"";
  for (const auto& result : evaluation.array("results")) run.results.push_back(read_value({result, where}));
  require(!run.results.empty(), where, " is empty");
  if (!record.steps.empty()) run.tokens = record.steps.back().tokens;
  std::vector<double> speeds;
  for (const TimingLine& line : record.timing) speeds.push_back(line.tokens_per_second);
  run.tokens_per_second = median_of(std::move(speeds));
  read_routing(record, run);
  run.routing = routing_columns(record.steps, kRoutingColumns);
  return run;
}

Json value_json(const ComparedValue& value) {
  return {{"dial", value.dial},
          {"value", or_null(value.value)},
          {"bpc", or_null(value.bpc)},
          {"mean_active_experts", value.mean_active_experts},
          {"active_parameters", value.active_parameters},
          {"flops_per_token", value.flops_per_token}};
}

Json run_json(const ComparedRun& run) {
  Json json{{"router", run.entry}, {"seed", run.seed}, {"results", Json::array()}};
  for (const ComparedValue& value : run.results) json["results"].push_back(value_json(value));
  json["parameters"] = run.parameters;
  json["tokens"] = run.tokens;
  json["tokens_per_second"] = run.tokens_per_second;
  json["load_max_over_mean"] = or_null(run.load_max_over_mean);
  json["dropped"] = or_null(run.dropped);
  json["entropy"] = or_null(run.entropy);
  json["routing"] = {{"step", run.routing.step}, {"load", run.routing.load}, {"entropy", Json::array()}};
  for (const std::vector<double>& layer : run.routing.entropy) {
    Json column = Json::array();
    for (const double entropy : layer) column.push_back(std::isfinite(entropy) ? Json(entropy) : Json(nullptr));
    json["routing"]["entropy"].push_back(column);
  }
  json["run"] = run.path;
  return json;
}

Json row_json(const SummaryRow& row) {
  return {{"router", row.entry},
          {"summary", row.summary},
          {"dial", row.dial},
          {"value", or_null(row.value)},
          {"seeds", row.seeds},
          {"bpc_mean", row.bpc ? Json(row.bpc->mean) : Json(nullptr)},
          {"bpc_sd", row.bpc ? or_null(row.bpc->deviation) : Json(nullptr)},
          {"differs_from_row_above", row.differs ? Json(*row.differs) : Json(nullptr)},
          {"mean_active_experts", row.mean_active_experts},
          {"active_parameters", row.active_parameters},
          {"flops_per_token", row.flops_per_token},
          {"parameters", row.parameters},
          {"tokens_per_second", row.tokens_per_second},
          {"load_max_over_mean", or_null(row.load_max_over_mean)},
          {"dropped", or_null(row.dropped)},
          {"entropy", or_null(row.entropy)}};
}

/// The rows of one entry.
std::vector<SummaryRow> rows_of(const CompareEntry& entry, const std::vector<const ComparedRun*>& runs) {
  std::vector<SummaryRow> rows;
  if (runs.empty()) return rows;
  const auto mean = [](const auto& items, auto get) {
    std::vector<double> values;
    for (const auto* item : items) values.push_back(get(*item));
    return mean_of(values);
  };
  // Each setting that any of the runs was measured at; a dial has no setting twice.
  std::vector<std::optional<double>> settings;
  for (const ComparedRun* run : runs) {
    for (const ComparedValue& value : run->results) {
      if (std::find(settings.begin(), settings.end(), value.value) == settings.end()) settings.push_back(value.value);
    }
  }
  for (const std::optional<double>& setting : settings) {
    std::vector<const ComparedValue*> values;
    std::vector<double> bits;
    for (const ComparedRun* run : runs) {
      for (const ComparedValue& value : run->results) {
        if (value.value != setting) continue;
        values.push_back(&value);
        if (value.bpc) bits.push_back(*value.bpc);
      }
    }
    SummaryRow row{.entry = entry.name,
                   .summary = entry.summary,
                   .dial = values[0]->dial,
                   .value = setting,
                   .seeds = std::ssize(values),
                   .bpc = bits.size() == values.size() ? std::optional(spread_of(bits)) : std::nullopt};
    row.mean_active_experts = mean(values, [](const ComparedValue& v) { return v.mean_active_experts; });
    row.active_parameters = mean(values, [](const ComparedValue& v) { return v.active_parameters; });
    row.flops_per_token = mean(values, [](const ComparedValue& v) { return v.flops_per_token; });
    row.parameters = mean(runs, [](const ComparedRun& r) { return static_cast<double>(r.parameters); });
    row.tokens_per_second = mean(runs, [](const ComparedRun& r) { return r.tokens_per_second; });
    if (runs[0]->load_max_over_mean) {
      row.load_max_over_mean = mean(runs, [](const ComparedRun& r) { return r.load_max_over_mean.value_or(0); });
      row.dropped = mean(runs, [](const ComparedRun& r) { return r.dropped.value_or(0); });
      row.entropy = mean(runs, [](const ComparedRun& r) { return r.entropy.value_or(0); });
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

bool has_lower_bpc(const SummaryRow& a, const SummaryRow& b) { return a.bpc && (!b.bpc || a.bpc->mean < b.bpc->mean); }

std::optional<bool> differ(const SummaryRow& a, const SummaryRow& b) {
  if (!a.bpc || !b.bpc || (!a.bpc->deviation && !b.bpc->deviation)) return std::nullopt;
  return std::abs(a.bpc->mean - b.bpc->mean) > std::max(a.bpc->deviation.value_or(0), b.bpc->deviation.value_or(0));
}

std::string formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string formatted(const char* format, const std::optional<double>& value) {
  return value ? formatted(format, *value) : "-";
}

/// "k = 16"; "-" without a dial.
template <class Row>
std::string dial_text(const Row& row) {
  return row.value ? printable(row.dial) + " = " + formatted("%g", *row.value) : "-";
}

}  // namespace

Spread spread_of(const std::vector<double>& values) {
  Spread spread{.mean = mean_of(values), .deviation = std::nullopt};
  if (values.size() < 2) return spread;
  double squares = 0;
  for (const double value : values) squares += (value - spread.mean) * (value - spread.mean);
  spread.deviation = std::sqrt(squares / static_cast<double>(values.size() - 1));
  return spread;
}

Comparison read_comparison(const ComparePlan& plan, const std::vector<PlannedRun>& runs,
                           const std::filesystem::path& folder) {
  Comparison comparison;
  comparison.title = plan.title;
  comparison.entries = plan.entries;
  for (const PlannedRun& planned : runs) {
    const RunPaths paths(folder, planned);
    if (!is_there(paths.evaluation)) continue;
    const std::string name = paths.evaluation.string();
    const auto json = parse_json<nlohmann::json>(read_file(paths.evaluation, kLargestJsonFile), name);
    const JsonObject evaluation = JsonObject(json, name).object("evaluation");
    comparison.runs.push_back(read_compared_run(planned, paths, evaluation));
    comparison.split = evaluation.text("split");
    comparison.data_path = evaluation.object("data").text("path");
    comparison.data_sha256 = evaluation.object("data").text("sha256");
  }
  return comparison;
}

std::vector<SummaryRow> summarize(const Comparison& comparison, bool best_only) {
  std::vector<SummaryRow> rows;
  for (const CompareEntry& entry : comparison.entries) {
    std::vector<const ComparedRun*> runs;
    for (const ComparedRun& run : comparison.runs) {
      if (run.entry == entry.name) runs.push_back(&run);
    }
    std::vector<SummaryRow> own = rows_of(entry, runs);
    if (best_only && !own.empty()) own = {*std::min_element(own.begin(), own.end(), has_lower_bpc)};
    rows.insert(rows.end(), own.begin(), own.end());
  }
  std::stable_sort(rows.begin(), rows.end(), has_lower_bpc);
  for (size_t i = 1; i < rows.size(); ++i) rows[i].differs = differ(rows[i - 1], rows[i]);
  return rows;
}

Json to_json(const Comparison& comparison) {
  Json json{{"format", "smoe-compare"},  {"version", 1},
            {"smoe", kVersion},          {"title", comparison.title},
            {"split", comparison.split}, {"data", {{"path", comparison.data_path}, {"sha256", comparison.data_sha256}}},
            {"runs", Json::array()},     {"summary", Json::array()},
            {"failed", Json::array()}};
  for (const ComparedRun& run : comparison.runs) json["runs"].push_back(run_json(run));
  for (const SummaryRow& row : summarize(comparison, false)) json["summary"].push_back(row_json(row));
  for (const FailedRun& run : comparison.failed) json["failed"].push_back({{"run", run.name}, {"reason", run.reason}});
  return json;
}

std::string comparison_table(const Comparison& comparison) {
  const std::vector<SummaryRow> rows = summarize(comparison, true);
  size_t width = 5;
  for (const SummaryRow& row : rows) width = std::max(width, row.entry.size());
  const auto line = [width](const std::string& entry, const std::string& dial, const std::string& bpc,
                            const std::string& sd, const std::string& seeds, const std::string& active,
                            const std::string& flops, const std::string& parameters, const std::string& speed,
                            const std::string& load, const std::string& dropped) {
    char text[320];
    std::snprintf(text, sizeof text, "%-*s  %-16s %8s %7s %5s %7s %9s %9s %8s %6s %8s\n", static_cast<int>(width),
                  entry.c_str(), dial.c_str(), bpc.c_str(), sd.c_str(), seeds.c_str(), active.c_str(), flops.c_str(),
                  parameters.c_str(), speed.c_str(), load.c_str(), dropped.c_str());
    return std::string(text);
  };
  std::string out =
      line("entry", "best at", "bpc", "sd", "seeds", "active", "FLOPs/tok", "params", "tokens/s", "load", "dropped");
  bool unsure = false;
  for (const SummaryRow& row : rows) {
    const bool close = row.differs == false;
    unsure = unsure || close;
    const std::string mean = row.bpc ? formatted("%.4f", row.bpc->mean) : "-";
    const std::string deviation = row.bpc ? formatted("%.4f", row.bpc->deviation) : "-";
    out += line(row.entry, dial_text(row), mean + (close ? "~" : ""), deviation, std::to_string(row.seeds),
                formatted("%.2f", row.mean_active_experts), formatted("%.3g", row.flops_per_token),
                formatted("%.3g", row.parameters), formatted("%.0f", row.tokens_per_second),
                formatted("%.2f", row.load_max_over_mean),
                formatted("%.2f%%", row.dropped ? std::optional(100 * *row.dropped) : std::nullopt));
  }
  for (const ComparedRun& run : comparison.runs) {
    for (const ComparedValue& value : run.results) {
      if (!value.bpc) out += printable(run.path) + " has no bpc at " + dial_text(value) + ": its loss is not finite\n";
    }
  }
  if (unsure) out += "~: no further from the row above than the seeds spread\n";
  return out;
}

}  // namespace smoe
