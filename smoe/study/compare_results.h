// What came out of a comparison: numbers of each run, means over seeds, and their order.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "smoe/study/compare_runs.h"
#include "smoe/study/routing_columns.h"

namespace smoe {

/// One setting of the dial at which a run was measured.
struct ComparedValue {
  std::string dial;             ///< its name; "none" without one
  std::optional<double> value;  ///< none without a dial
  std::optional<double> bpc;    ///< none where the loss was not finite
  double mean_active_experts = 0, active_parameters = 0, flops_per_token = 0;
};

/// One run that came through.
struct ComparedRun {
  std::string entry, path;  ///< path: its folder
  int64_t seed = 0, tokens = 0, parameters = 0;
  std::vector<ComparedValue> results;
  double tokens_per_second = 0;  ///< of the training, the median of its log
  /// Means over the layers and the last tenth of the training's log lines; none for a model without mixtures.
  std::optional<double> load_max_over_mean = {}, dropped = {}, entropy = {};
  RoutingColumns routing = {};  ///< over the training, layer by layer
};

struct Comparison {
  std::string title, split, data_path, data_sha256;
  std::vector<CompareEntry> entries;
  std::vector<ComparedRun> runs;
  std::vector<FailedRun> failed;
};

/// Reads what the runs of a comparison in `folder` left; those without an evaluation are left out. Throws UserError
/// naming the file for what is not as smoe writes it.
Comparison read_comparison(const ComparePlan& plan, const std::vector<PlannedRun>& runs,
                           const std::filesystem::path& folder);

/// A mean over seeds, and the standard deviation of one seed (n − 1), which one seed has not.
struct Spread {
  double mean = 0;
  std::optional<double> deviation;
};
Spread spread_of(const std::vector<double>& values);

/// An entry at one setting of its dial, over its seeds.
struct SummaryRow {
  std::string entry, summary, dial;
  std::optional<double> value;
  int64_t seeds = 0;
  std::optional<Spread> bpc;  ///< none where a run has none: the mean of the others would not be that of the entry
  double mean_active_experts = 0, active_parameters = 0, flops_per_token = 0, parameters = 0, tokens_per_second = 0;
  std::optional<double> load_max_over_mean = {}, dropped = {}, entropy = {};
  /// Of the row above: whether this one differs from it by more than the larger of their two deviations; none for the first
  /// row, where neither has one, and where one of them has no bpc.
  std::optional<bool> differs = {};
};

/// All rows, the lowest bpc first and those without one last; where `best_only`, of each entry the first of these.
std::vector<SummaryRow> summarize(const Comparison& comparison, bool best_only);

/// results.json: docs/formats.md says what is in it.
nlohmann::ordered_json to_json(const Comparison& comparison);

/// The best row of each entry as lines of text.
std::string comparison_table(const Comparison& comparison);

/// A page about it, one HTML file that asks nothing of any network.
std::string comparison_page(const Comparison& comparison);

}  // namespace smoe
