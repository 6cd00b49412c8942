#include "smoe/study/run_record.h"

#include <algorithm>
#include <map>
#include <string_view>

#include "smoe/base/config_text.h"
#include "smoe/base/config_values.h"
#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/json.h"
#include "smoe/study/json_object.h"

namespace smoe {
namespace {

/// Calls `take` with each whole line of the log at `path`; with none where there is no such file.
template <class Take>
void for_each_line(const std::filesystem::path& path, Take take) {
  if (!is_there(path)) return;
  // Not mapped: a run that resumes cuts its logs, and a map that loses its end kills the reader.
  const std::string text = read_file(path);
  size_t begin = 0;
  for (int64_t number = 1;; ++number) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) return;
    const std::string where = concat(path.string(), ":", number);
    const nlohmann::json json = parse_json<nlohmann::json>(std::string_view(text).substr(begin, end - begin), where);
    take(JsonObject(json, where));
    begin = end + 1;
  }
}

LayerLine read_layer(const JsonObject& object) {
  LayerLine layer{.load = {}, .entropy = object.number("entropy"), .dropped = object.number("dropped")};
  for (const nlohmann::json& share : object.array("load")) {
    require(share.is_number(), object.where(), ": \"load\" must hold numbers");
    layer.load.push_back(share.get<float>());
  }
  return layer;
}

StepLine read_step_line(const JsonObject& object) {
  StepLine line{.step = object.integer("step"),
                .tokens = object.integer("tokens"),
                .loss = object.number("loss"),
                .bpc = object.number("bpc"),
                .lr = object.number("lr"),
                .grad_norm = object.number("grad_norm"),
                .k = object.optional_integer("k"),
                .layers = {}};
  for (const nlohmann::json& layer : object.array("layers"))
    line.layers.push_back(read_layer({layer, object.where() + ": \"layers\""}));
  return line;
}

/// Throws where `line` cannot follow `before`: the charts need steps that rise and layers that stay.
void require_follows(const StepLine& before, const StepLine& line, const std::string& where) {
  require(line.step > before.step, where, ": step ", line.step, " does not come after step ", before.step,
          " of the line before");
  const auto same = [](const LayerLine& a, const LayerLine& b) { return a.load.size() == b.load.size(); };
  require(std::equal(line.layers.begin(), line.layers.end(), before.layers.begin(), before.layers.end(), same), where,
          ": has other layers or numbers of experts than the line before");
}

void read_metrics(const std::filesystem::path& path, RunRecord& run) {
  std::map<std::pair<bool, std::optional<int64_t>>, int64_t> last_valid;  // averaged, k → step
  for_each_line(path, [&](const JsonObject& object) {
    if (!object.has("split")) {
      StepLine line = read_step_line(object);
      if (!run.steps.empty()) require_follows(run.steps.back(), line, object.where());
      run.steps.push_back(std::move(line));
      if (object.has("frozen")) run.frozen = object.integers("frozen");
      return;
    }
    ValidLine line{.step = object.integer("step"),
                   .k = object.optional_integer("k"),
                   .averaged = object.text("split") == "valid_average",
                   .nll = object.number("nll"),
                   .bpc = object.number("bpc")};
    const auto [last, is_first] = last_valid.try_emplace({line.averaged, line.k}, line.step);
    // small_k may be all experts, and then there are two such lines at each step, which say the same.
    if (!is_first && line.step == last->second) return;
    require(is_first || line.step > last->second, object.where(), ": step ", line.step, " does not come after step ",
            last->second, " of the evaluation before");
    last->second = line.step;
    run.valid.push_back(line);
  });
}

std::vector<TimingLine> read_timing(const std::filesystem::path& path) {
  std::vector<TimingLine> lines;
  for_each_line(path, [&](const JsonObject& object) {
    const TimingLine line{.step = object.integer("step"),
                          .seconds = object.number("seconds"),
                          .tokens_per_second = object.number("tokens_per_second")};
    require(lines.empty() || line.step > lines.back().step, object.where(), ": step ", line.step,
            " does not come after the step of the line before");
    lines.push_back(line);
  });
  return lines;
}

/// The value of a dial that is not k, in words; empty where the dial is k or there is none.
std::string read_setting(const JsonObject& object) {
  const std::string dial = object.has("dial") ? object.text("dial") : "none";
  if (dial == "k" || dial == "none") return "";
  return object.is_null("value") ? dial : dial + " " + double_text(object.number("value"));
}

EvaluationRow read_evaluation_row(const JsonObject& object) {
  std::string setting = read_setting(object);
  return {.k = setting.empty() ? object.optional_integer("value") : std::nullopt,
          .setting = std::move(setting),
          .nll = object.number("nll"),
          .bpc = object.number("bpc"),
          .active_parameters = object.number("active_parameters"),
          .flops_per_token = object.number("flops_per_token"),
          .tokens_per_second = object.number("tokens_per_second"),
          .tokens = object.integer("tokens")};
}

std::vector<Evaluation> read_evaluations(const std::filesystem::path& path) {
  std::vector<Evaluation> evaluations;
  for_each_line(path, [&](const JsonObject& object) {
    const JsonObject data = object.object("data");
    Evaluation evaluation{.checkpoint = object.text("checkpoint"),
                          .split = object.text("split"),
                          .data_path = data.text("path"),
                          .data_sha256 = data.text("sha256"),
                          .step = object.integer("step"),
                          .threads = object.integer("threads"),
                          .rows = {}};
    for (const nlohmann::json& row : object.array("results")) {
      evaluation.rows.push_back(read_evaluation_row({row, object.where() + ": \"results\""}));
    }
    evaluations.push_back(std::move(evaluation));
  });
  return evaluations;
}

void read_recipe(const std::filesystem::path& path, RunRecord& run) {
  for (const RawSetting& setting : read_settings(read_file(path, kLargestToml), path.string())) {
    run.recipe.emplace_back(setting.name, value_text(setting.value));
    if (setting.name != "train.steps") continue;
    const int64_t* steps = std::get_if<int64_t>(&setting.value);
    require(steps != nullptr && *steps >= 1, setting.where, ": train.steps must be an integer of at least 1");
    run.planned_steps = *steps;
  }
}

CheckpointIndex read_index(const std::filesystem::path& checkpoints) {
  if (!is_there(checkpoints / "index.json")) return {};
  try {
    return read_checkpoint_index(checkpoints);
  } catch (const UserError&) {
    // Between the reading of the index and the look at a folder it names, a running training may have replaced both.
    return read_checkpoint_index(checkpoints);
  }
}

}  // namespace

bool RunRecord::is_finished() const {
  return planned_steps > 0 && checkpoints.last.name == checkpoint_name(planned_steps);
}

RunRecord read_run(const std::filesystem::path& path) {
  require(is_folder(path), path.string(), ": no such run");
  require(is_there(path / "recipe.toml"), path.string(), ": is not a run: it has no recipe.toml");
  RunRecord run;
  run.path = path;
  read_recipe(path / "recipe.toml", run);
  // Before the logs, so that a checkpoint that is seen has its lines.
  run.checkpoints = read_index(path / "checkpoints");
  const std::filesystem::path environment = path / "environment.json";
  if (is_there(environment)) run.environment = read_json_object(environment);
  read_metrics(path / "metrics.jsonl", run);
  run.timing = read_timing(path / "timing.jsonl");
  run.evaluations = read_evaluations(path / "evaluations.jsonl");
  return run;
}

int64_t logged_step(const std::filesystem::path& path) {
  if (!is_there(path)) return 0;
  const std::string text = read_file(path);
  for (size_t end = text.rfind('\n'); end != std::string::npos && end > 0;) {
    const size_t before = text.rfind('\n', end - 1), begin = before == std::string::npos ? 0 : before + 1;
    const nlohmann::json json = nlohmann::json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                                      text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (json.is_object() && !json.contains("split") && json.contains("step") && json["step"].is_number_integer()) {
      return json["step"].get<int64_t>();
    }
    end = before;
  }
  return 0;
}

}  // namespace smoe
