// What the loop does with the mean of the weights: it is evaluated as the weights are, and saved as a model of its own.
#include <cstdio>

#include <nlohmann/json.hpp>

#include "smoe/base/file.h"
#include "smoe/base/manifest.h"
#include "smoe/base/progress.h"
#include "smoe/train/trainer.h"

namespace smoe {
namespace {

/// The model's values are the mean for as long as this lives.
class Averaged {
 public:
  Averaged(WeightAverage& average, LanguageModel& model) : average_(average), model_(model) { average_.swap(model_); }
  ~Averaged() { average_.swap(model_); }
  Averaged(const Averaged&) = delete;
  Averaged& operator=(const Averaged&) = delete;

 private:
  WeightAverage& average_;
  LanguageModel& model_;
};

}  // namespace

void Trainer::evaluate_average(ProgressBar& bar) {
  if (!average_ || average_->snapshots() == 0) return;
  const Averaged averaged(*average_, *model_);
  const EvalResult full = measure(std::nullopt, "valid_average");
  if (full.dial == Dial::kK) measure(static_cast<double>(within_experts(recipe_.train.small_k)), "valid_average");
  char text[128];
  std::snprintf(text, sizeof text, "step %lld: valid %.4f bpc with the mean of the weights at %lld evaluations",
                static_cast<long long>(step_), full.bpc, static_cast<long long>(average_->snapshots()));
  bar.note(text);
}

void Trainer::save_average() {
  if (!average_ || average_->snapshots() == 0) return;
  const Averaged averaged(*average_, *model_);
  const std::filesystem::path folder = run_.path() / "average";
  // The last checkpoint has all that it is made of: where it is lost between these two lines, resuming makes it again.
  remove_tree(folder);
  make_folder_atomic(folder, [this](const std::filesystem::path& temporary) {
    save_model(temporary, *model_, vocabulary_, model_lengths());
    const nlohmann::ordered_json json{{"format", "smoe-average"},
                                      {"version", 1},
                                      {"step", step_},
                                      {"snapshots", average_->snapshots()},
                                      {"data", {{"path", files_.path()}, {"sha256", data_sha256_}}},
                                      {"recipe", to_json(recipe_.fields())}};
    write_file_atomic(temporary / "average.json", json.dump(2) + "\n");
  });
}

}  // namespace smoe
