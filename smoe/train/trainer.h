// The training loop.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "smoe/base/json_lines.h"
#include "smoe/data/batch_stream.h"
#include "smoe/data/corpus.h"
#include "smoe/models/model_folder.h"
#include "smoe/moe/k_schedule.h"
#include "smoe/tensor/process_group.h"
#include "smoe/train/checkpoint_store.h"
#include "smoe/train/evaluate.h"
#include "smoe/train/metrics_log.h"
#include "smoe/train/objective.h"
#include "smoe/train/optimizer.h"
#include "smoe/train/plateau.h"
#include "smoe/train/recipe.h"
#include "smoe/train/run_folder.h"
#include "smoe/train/weight_average.h"

namespace smoe {

class ProgressBar;

/// Trains the model of a run's recipe. One step is: set k, forward, backward, clip, update, learning rate, log, and,
/// where due, evaluate and save. Everything a step depends on is in the checkpoint or computed from the seed and the
/// step, so a run that was killed and goes on makes the same weights and the same metrics.jsonl, bit for bit.
class Trainer {
 public:
  /// Opens the recipe's data and makes the model; goes on from the run's last checkpoint where it has one. The recipe is
  /// the run's own, save for data.path (the same text may have moved) and train.threads. Throws UserError for data that
  /// does not fit, or that is not what the run was started with.
  Trainer(RunFolder run, Recipe recipe);
  ~Trainer();

  /// Trains to the last step, or until `stop` is not 0; then the step is finished and saved. Throws Failure where the
  /// loss or a gradient is not finite: the state before that step is saved, and the message names step and part.
  /// Returns whether the last step was reached.
  bool run(const std::atomic<int>& stop, std::FILE* progress);

  /// What one step gave.
  struct StepResult {
    double loss = 0;
    double gradient_norm = 0;
    int64_t k = 0;
    double lr = 0;
    int64_t tokens = 0;
    std::vector<std::pair<std::string, double>> losses;  ///< the auxiliary ones, before their weights
  };
  /// One step of run(), without its logging, evaluation and saving; `book`, where there is one, takes statistics.
  StepResult train_step(StatsBook* book);
  /// `heard` is called with the name of each part of a step as soon as it is done: data, forward, loss, backward (these
  /// three for each micro-batch), norm, optimizer.
  void listen(std::function<void(const char* part)> heard) { heard_ = std::move(heard); }

  int64_t step() const { return step_; }
  const TokenSequence& valid_text() const { return valid_text_; }
  const RunFolder& folder() const { return run_; }
  LanguageModel& model() { return *model_; }
  const CheckpointStore& checkpoints() const { return store_; }

 private:
  void load(const std::filesystem::path& checkpoint);
  void save(const CheckpointStore::Scores& scores);
  void done(const char* part) const {
    if (heard_) heard_(part);
  }
  /// Freezes the parts that are due at one of the steps from `first` to now, and has the optimizer forget them.
  void freeze_parts(int64_t first);
  /// The model after `step` updates, its weights as they are drawn at the start.
  std::shared_ptr<LanguageModel> drawn_model(int64_t step) const;
  /// Trains that model from here on, with an optimizer that knows nothing yet.
  void use_model(std::shared_ptr<LanguageModel> model);
  /// k, or all experts that the model has by now where it has fewer.
  int64_t within_experts(int64_t k) const;
  /// Looks at what the model needs beside its gradients: statistics, a mean of its weights.
  void attend_to_model();
  /// Begins with the weights of train.init where the recipe names one.
  void take_initial_weights();
  /// Gives each mixture all its experts where that is due at this step.
  void spawn_experts();
  at::Tensor objective_of(const ObjectiveResult& task, const StatsBook* book, StepResult& result) const;
  Pass make_pass(const Segment& segment, int64_t micro_batch, int64_t k, StatsBook* book) const;
  [[noreturn]] void stop_on_bad_value(const std::string& what, const Segment& segment,
                                      const std::vector<Memory>& memories, const StreamPosition& position, int64_t k);
  void log(const StepResult& result, const StatsBook& book);
  /// Evaluates on valid and writes the line of metrics.jsonl, `split` its name for what was measured.
  EvalResult measure(std::optional<double> dial, const std::string& split);
  CheckpointStore::Scores evaluate_valid(ProgressBar& bar);
  void evaluate_average(ProgressBar& bar);
  void save_average();
  ModelLengths model_lengths() const;

  RunFolder run_;
  Recipe recipe_;
  CorpusFiles files_;
  ByteVocabulary vocabulary_;
  TokenSequence train_text_, valid_text_;
  std::shared_ptr<LanguageModel> model_;
  TrainOptimizer optimizer_;
  std::optional<WeightAverage> average_;
  KSchedule k_schedule_;
  std::unique_ptr<Objective> objective_;
  ProcessGroup group_;
  BatchStream stream_;
  CheckpointStore store_;
  PlateauWatch plateau_;
  bool wants_statistics_ = false;  // at every step, not only where it is logged
  bool routers_frozen_ = false;    // and with them what they move without a gradient
  std::unique_ptr<MetricsLog> metrics_;
  std::unique_ptr<JsonLines> timing_;
  std::function<void(const char* part)> heard_;

  // What a checkpoint holds beside model and optimizer.
  std::string data_sha256_;
  int64_t step_ = 0, tokens_ = 0;
  double loss_sum_ = 0;  // over the steps since the last line of metrics.jsonl
  int64_t loss_count_ = 0;
  std::vector<Memory> memories_;  // one a micro-batch
};

/// Throws UserError where the recipe's router wants to know families of languages that the text does not tell, or has no
/// expert for each.
void check_families(const Recipe& recipe, const CorpusFiles& files);

/// Throws UserError where a training by that recipe, on a text with that vocabulary, cannot begin with the weights of the
/// model that train.init names: it is not there, has other tokens, or is another model.
void check_initial_model(const Recipe& recipe, const ByteVocabulary& vocabulary);

/// Makes a new run in `out` and its trainer.
std::unique_ptr<Trainer> start_training(const Recipe& recipe, const std::filesystem::path& out);

}  // namespace smoe
