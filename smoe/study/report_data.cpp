// What a report shows of its runs, as JSON.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <set>
#include <string_view>
#include <tuple>

#include "smoe/base/build_info.h"
#include "smoe/base/error.h"
#include "smoe/study/report.h"
#include "smoe/study/routing_columns.h"

namespace smoe {
namespace {

using Json = nlohmann::ordered_json;

Json or_null(const std::optional<int64_t>& value) { return value ? Json(*value) : Json(nullptr); }

/// JSON has no NaN and no infinity.
Json finite(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

/// An array of what `get` takes from each item.
template <class Items, class Get>
Json column(const Items& items, Get get) {
  Json values = Json::array();
  for (const auto& item : items) values.push_back(get(item));
  return values;
}

/// Which of the lines to show: all, or about `limit`. Of each group of neighbours the last stays, and so do those with
/// the lowest and the highest loss and the largest gradient, so that no peak is lost.
std::vector<StepLine> thinned(const std::vector<StepLine>& lines, size_t limit) {
  if (lines.size() <= limit) return lines;
  constexpr size_t kKept = 4;
  const size_t group = (kKept * lines.size() + limit - 1) / limit;
  const auto by = [](double StepLine::* value) {
    return [value](const StepLine& a, const StepLine& b) { return a.*value < b.*value; };
  };
  std::vector<StepLine> kept;
  for (size_t begin = 0; begin < lines.size(); begin += group) {
    const auto first = lines.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto end = first + static_cast<std::ptrdiff_t>(std::min(group, lines.size() - begin));
    const std::set chosen{std::min_element(first, end, by(&StepLine::loss)),
                          std::max_element(first, end, by(&StepLine::loss)),
                          std::max_element(first, end, by(&StepLine::grad_norm)), end - 1};
    for (const auto line : chosen) kept.push_back(*line);
  }
  return kept;
}

/// The training lines, column by column.
Json training(const std::vector<StepLine>& lines) {
  Json json{{"step", column(lines, [](const StepLine& line) { return line.step; })},
            {"tokens", column(lines, [](const StepLine& line) { return line.tokens; })},
            {"loss", column(lines, [](const StepLine& line) { return finite(line.loss); })},
            {"bpc", column(lines, [](const StepLine& line) { return finite(line.bpc); })},
            {"k", column(lines, [](const StepLine& line) { return or_null(line.k); })},
            {"lr", column(lines, [](const StepLine& line) { return finite(line.lr); })},
            {"grad_norm", column(lines, [](const StepLine& line) { return finite(line.grad_norm); })},
            {"layers", Json::array()}};
  const size_t layers = lines.empty() ? 0 : lines[0].layers.size();
  for (size_t layer = 0; layer < layers; ++layer) {
    json["layers"].push_back(
        {{"entropy", column(lines, [&](const StepLine& line) { return finite(line.layers[layer].entropy); })},
         {"dropped", column(lines, [&](const StepLine& line) { return finite(line.layers[layer].dropped); })}});
  }
  return json;
}

/// Load of each expert over time: "step" is the last of each column, "layers" holds for each layer its columns.
Json heat_maps(const std::vector<StepLine>& lines, size_t columns) {
  const RoutingColumns routing = routing_columns(lines, columns);
  return {{"step", routing.step}, {"layers", routing.load}};
}

/// The evaluations of the training itself, a series for each k, and for each of the averaged weights.
Json validation(const std::vector<ValidLine>& lines) {
  // The place in `series`, which are in the order of their first lines.
  std::map<std::pair<bool, std::optional<int64_t>>, size_t> place;
  std::vector<std::vector<ValidLine>> series;
  for (const ValidLine& line : lines) {
    const auto [found, is_new] = place.try_emplace({line.averaged, line.k}, series.size());
    if (is_new) series.emplace_back();
    series[found->second].push_back(line);
  }
  return column(series, [](const std::vector<ValidLine>& own) {
    return Json{{"k", or_null(own[0].k)},
                {"averaged", own[0].averaged},
                {"step", column(own, [](const ValidLine& line) { return line.step; })},
                {"nll", column(own, [](const ValidLine& line) { return finite(line.nll); })},
                {"bpc", column(own, [](const ValidLine& line) { return finite(line.bpc); })}};
  });
}

Json to_json(const EvaluationRow& row) {
  return {{"k", or_null(row.k)},
          {"setting", row.setting},
          {"nll", finite(row.nll)},
          {"bpc", finite(row.bpc)},
          {"tokens", row.tokens},
          {"active_parameters", finite(row.active_parameters)},
          {"flops_per_token", finite(row.flops_per_token)},
          {"tokens_per_second", finite(row.tokens_per_second)}};
}

/// What is known of each checkpoint and text, the latest measured last. Of two measurements at the same k and of as many
/// tokens the later one stands.
Json evaluations(const std::vector<Evaluation>& all) {
  using Subject = std::tuple<std::string_view, std::string_view, std::string_view>;  // checkpoint, split, data
  std::map<Subject, size_t> place;
  std::vector<Evaluation> merged;
  using RowKey = std::tuple<std::optional<int64_t>, std::string_view, int64_t>;  // k, setting, tokens
  std::vector<std::set<RowKey>> known;                                           // of the rows of each that come later
  for (auto evaluation = all.rbegin(); evaluation != all.rend(); ++evaluation) {
    const Subject subject{evaluation->checkpoint, evaluation->split, evaluation->data_sha256};
    const auto [found, is_new] = place.try_emplace(subject, merged.size());
    if (is_new) {
      known.emplace_back();
      merged.push_back(*evaluation);
      merged.back().rows.clear();
    }
    std::set<RowKey>& later = known[found->second];
    const auto key_of = [](const EvaluationRow& row) { return RowKey{row.k, row.setting, row.tokens}; };
    std::copy_if(evaluation->rows.begin(), evaluation->rows.end(), std::back_inserter(merged[found->second].rows),
                 [&](const EvaluationRow& row) { return !later.contains(key_of(row)); });
    for (const EvaluationRow& row : evaluation->rows) later.insert(key_of(row));
  }
  std::reverse(merged.begin(), merged.end());
  for (Evaluation& evaluation : merged) {
    std::stable_sort(evaluation.rows.begin(), evaluation.rows.end(),
                     [](const EvaluationRow& a, const EvaluationRow& b) { return a.k < b.k; });
  }
  return column(merged, [](const Evaluation& evaluation) {
    return Json{{"checkpoint", evaluation.checkpoint},
                {"step", evaluation.step},
                {"split", evaluation.split},
                {"threads", evaluation.threads},
                {"data", {{"path", evaluation.data_path}, {"sha256", evaluation.data_sha256}}},
                {"rows", column(evaluation.rows, [](const EvaluationRow& row) { return to_json(row); })}};
  });
}

Json to_json(const IndexedCheckpoint& entry) {
  if (entry.name.empty()) return nullptr;
  return {{"name", entry.name}, {"nll", finite(entry.nll)}};
}

/// What the clock said of the lines that are shown.
Json timing(const std::vector<TimingLine>& all, const std::vector<StepLine>& shown) {
  std::vector<TimingLine> lines;
  std::copy_if(all.begin(), all.end(), std::back_inserter(lines), [&](const TimingLine& line) {
    const auto same = std::lower_bound(shown.begin(), shown.end(), line.step,
                                       [](const StepLine& other, int64_t step) { return other.step < step; });
    return same != shown.end() && same->step == line.step;
  });
  return {{"step", column(lines, [](const TimingLine& line) { return line.step; })},
          {"seconds", column(lines, [](const TimingLine& line) { return finite(line.seconds); })},
          {"tokens_per_second", column(lines, [](const TimingLine& line) { return finite(line.tokens_per_second); })}};
}

Json run_json(const RunRecord& run, const std::string& name, const ReportLimits& limits) {
  const std::vector<StepLine> shown = thinned(run.steps, limits.lines);
  Json frozen = Json::object();
  for (const auto& [part, step] : run.frozen) frozen[part] = step;
  return {{"name", name},
          {"path", run.path.string()},
          {"step", run.step()},
          {"planned_steps", run.planned_steps},
          {"finished", run.is_finished()},
          {"lines", run.steps.size()},
          {"shown", shown.size()},
          {"training", training(shown)},
          {"load", heat_maps(run.steps, limits.columns)},
          {"valid", validation(run.valid)},
          {"frozen", frozen},
          {"timing", timing(run.timing, shown)},
          {"evaluations", evaluations(run.evaluations)},
          {"checkpoints",
           {{"last", to_json(run.checkpoints.last)},
            {"best_full", to_json(run.checkpoints.best_full)},
            {"best_small", to_json(run.checkpoints.best_small)}}},
          {"recipe", run.recipe},
          {"environment", run.environment}};
}

std::filesystem::path full_path(const RunRecord& run) {
  const std::filesystem::path full = std::filesystem::weakly_canonical(run.path);
  return full.has_filename() ? full : full.parent_path();
}

/// The folder's name for each run, or where that would stand for two of them, the path as it was given.
std::vector<std::string> run_names(const std::vector<RunRecord>& runs) {
  std::vector<std::string> names;
  for (const RunRecord& run : runs) {
    const auto is_namesake = [&](const RunRecord& other) {
      return full_path(other).filename() == full_path(run).filename();
    };
    const bool unique = std::count_if(runs.begin(), runs.end(), is_namesake) == 1;
    names.push_back(unique ? full_path(run).filename().string() : run.path.string());
  }
  return names;
}

/// The settings in which the runs differ: [name, [value in each run, null where its recipe lacks it]].
Json differences(const std::vector<RunRecord>& runs) {
  std::vector<std::string> names;
  std::set<std::string_view> seen;
  std::vector<std::map<std::string_view, std::string_view>> recipes;
  for (const RunRecord& run : runs) {
    recipes.emplace_back(run.recipe.begin(), run.recipe.end());
    for (const auto& [name, value] : run.recipe) {
      if (seen.insert(name).second) names.push_back(name);
    }
  }
  Json rows = Json::array();
  for (const std::string& name : names) {
    const Json values = column(recipes, [&](const auto& recipe) {
      const auto found = recipe.find(name);
      return found == recipe.end() ? Json(nullptr) : Json(found->second);
    });
    if (std::any_of(values.begin(), values.end(), [&](const Json& value) { return value != values[0]; })) {
      rows.push_back({name, values});
    }
  }
  return rows;
}

}  // namespace

Json report_data(const std::vector<RunRecord>& runs, const ReportLimits& limits) {
  require(!runs.empty(), "a report needs a run");
  std::set<std::filesystem::path> paths;
  for (const RunRecord& run : runs) {
    require(paths.insert(full_path(run)).second, run.path.string(), ": is named twice; a report shows a run once");
  }
  const std::vector<std::string> names = run_names(runs);
  Json json{{"format", "smoe-report"}, {"version", 1}, {"smoe", kVersion}, {"runs", Json::array()}};
  for (size_t i = 0; i < runs.size(); ++i) json["runs"].push_back(run_json(runs[i], names[i], limits));
  json["differences"] = differences(runs);
  return json;
}

}  // namespace smoe
