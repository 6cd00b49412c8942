// What the files of a run say, for reports: read without LibTorch, while the run may still be training.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "smoe/models/checkpoint_index.h"

namespace smoe {

/// One mixture in a training line of metrics.jsonl.
struct LayerLine {
  std::vector<float> load;  ///< [E] share of the assignments that each expert got
  double entropy = 0;       ///< of the router's probabilities, in nats
  double dropped = 0;       ///< share of the assignments over capacity
};

/// A training line of metrics.jsonl. A number that the log has as null is NaN.
struct StepLine {
  int64_t step = 0, tokens = 0;
  double loss = 0, bpc = 0, lr = 0, grad_norm = 0;
  std::optional<int64_t> k;       ///< none for a dense model
  std::vector<LayerLine> layers;  ///< as many in each line, with as many experts
};

/// An evaluation line of metrics.jsonl.
struct ValidLine {
  int64_t step = 0;
  std::optional<int64_t> k;
  bool averaged = false;  ///< of the mean of the weights so far, not of this step's
  double nll = 0, bpc = 0;
};

/// A line of timing.jsonl.
struct TimingLine {
  int64_t step = 0;
  double seconds = 0, tokens_per_second = 0;
};

/// One row of an evaluation of `smoe eval`.
struct EvaluationRow {
  std::optional<int64_t> k;
  std::string setting = {};  ///< the dial and its value where the dial is not k, such as "threshold 0.4"
  double nll = 0, bpc = 0, active_parameters = 0, flops_per_token = 0, tokens_per_second = 0;
  int64_t tokens = 0;
};

/// A line of evaluations.jsonl: one call of `smoe eval`.
struct Evaluation {
  std::string checkpoint, split, data_path, data_sha256;
  int64_t step = 0, threads = 0;
  std::vector<EvaluationRow> rows;
};

/// A run on disk at one moment.
struct RunRecord {
  std::filesystem::path path;                               ///< as it was given
  std::vector<std::pair<std::string, std::string>> recipe;  ///< each setting of recipe.toml and its value as TOML
  int64_t planned_steps = 0;                                ///< train.steps of the recipe; 0 where it does not say
  nlohmann::ordered_json environment;                       ///< environment.json; null where there is none yet
  CheckpointIndex checkpoints;
  std::vector<StepLine> steps;  ///< in the order of their steps, each step once
  std::vector<ValidLine> valid;
  std::vector<TimingLine> timing;
  std::vector<Evaluation> evaluations;
  std::vector<std::pair<std::string, int64_t>> frozen;  ///< parts that are by the last line, and since which step

  /// The step of the last line, 0 before the first.
  int64_t step() const { return steps.empty() ? 0 : steps.back().step; }
  /// Whether the checkpoint of the last planned step is saved.
  bool is_finished() const;
};

/// Reads the run in `path`. A last line that is not whole is being written and is left out; logs that are not there yet
/// are empty. Throws UserError naming the file, and the line where there is one, for everything else that is not as
/// smoe writes it.
RunRecord read_run(const std::filesystem::path& path);

/// The step of the last training line in the metrics.jsonl at `path`, 0 where there is none yet or no such file: quick to
/// ask again and again, and no check of the file.
int64_t logged_step(const std::filesystem::path& path);

}  // namespace smoe
