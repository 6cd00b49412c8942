#include "bench/step.h"

#include <ATen/Parallel.h>
#include <stdlib.h>
#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <random>

#include <nlohmann/json.hpp>

#include "bench/live_memory.h"
#include "bench/machine.h"
#include "bench/profile.h"
#include "bench/samples_json.h"
#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/kernels/kernel_choice.h"
#include "smoe/tensor/gpu.h"
#include "smoe/train/trainer.h"

namespace smoe::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kEvaluations = 3;   // of each k
constexpr int64_t kEvalSegments = 8;  // of an evaluation, beside those that fill the memory
constexpr int64_t kProfiledSteps = 5;
constexpr size_t kShortestSplit = 4096;  // bytes

/// A folder that vanishes with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "smoe-bench-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw Failure(name + ": cannot be made");
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

void write_random_bytes(const std::filesystem::path& path, int64_t size, uint64_t seed) {
  std::mt19937_64 draw(seed);
  std::string bytes(std::max(static_cast<size_t>(size), kShortestSplit), '\0');
  for (char& byte : bytes) byte = static_cast<char>(draw());
  write_file_atomic(path, bytes);
}

int64_t warm_up_steps(const TrainConfig& train) {
  return std::max<int64_t>(2, (train.memory + train.segment - 1) / train.segment + 1);
}

int64_t eval_segments(const EvalLengths& lengths) { return lengths.memory / lengths.segment + kEvalSegments; }

/// Texts that last for all steps and for one evaluation.
void write_texts(const std::filesystem::path& folder, const TrainConfig& train, int64_t steps) {
  const EvalLengths lengths = eval_lengths(train);
  make_folders(folder);
  write_random_bytes(folder / "train", train.batch * (train.segment * steps + 1), 1);
  write_random_bytes(folder / "valid", lengths.batch * (lengths.segment * eval_segments(lengths) + 1), 2);
  write_random_bytes(folder / "test", 0, 3);
}

/// The most memory that this program has had, in bytes. Not what getrusage says, if there is better: that counts what the
/// process had before it became this program.
int64_t peak_rss_bytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    int64_t kibibytes = 0;
    if (word == "VmHWM:" && status >> kibibytes) return kibibytes * 1024;
  }
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

/// The seconds of the parts of each step.
class StepClock {
 public:
  StepClock(Trainer& trainer, at::Device device) {
    trainer.listen([this, device](const char* part) {
      wait_for(device);
      const auto now = std::chrono::steady_clock::now();
      if (steps_.empty()) return;
      if (std::find(names_.begin(), names_.end(), part) == names_.end()) names_.emplace_back(part);
      steps_.back()[part] += std::chrono::duration<double>(now - last_).count();
      last_ = now;
    });
  }

  void begin_step() {
    steps_.emplace_back();
    last_ = std::chrono::steady_clock::now();
  }

  Samples totals() const {
    Samples out;
    for (const auto& step : steps_) out.add(total(step));
    return out;
  }

  /// Means over the half of the steps that is neither the fastest nor the slowest quarter: {"forward": ms, …, "total"}.
  Json middle_ms() const {
    std::vector<size_t> order(steps_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return total(steps_[a]) < total(steps_[b]); });
    const size_t out = steps_.size() / 4, count = steps_.size() - 2 * out;
    Json json = Json::object();
    double sum = 0;
    for (const std::string& name : names_) {
      double seconds = 0;
      for (size_t i = out; i < out + count; ++i) seconds += steps_[order[i]].at(name);
      json[name] = seconds / static_cast<double>(count) * 1e3;
      sum += json[name].get<double>();
    }
    json["total"] = sum;
    return json;
  }

 private:
  using Step = std::map<std::string, double>;

  static double total(const Step& step) {
    return std::accumulate(step.begin(), step.end(), 0.0,
                           [](double sum, const auto& part) { return sum + part.second; });
  }

  std::vector<std::string> names_;  // in the order of a step
  std::vector<Step> steps_;
  std::chrono::steady_clock::time_point last_;
};

Json evaluate_at(Trainer& trainer, const TrainConfig& train, const std::vector<int64_t>& ks) {
  EvalLengths lengths = eval_lengths(train);
  lengths.tokens = lengths.batch * lengths.segment * eval_segments(lengths);
  EvalLengths short_lengths = lengths;
  short_lengths.tokens = lengths.batch * lengths.segment;
  std::vector<Samples> speeds(ks.size());
  std::vector<EvalResult> results(ks.size());
  evaluate(trainer.model(), trainer.valid_text(), short_lengths, ks[0], "valid");  // packs the weights
  for (int64_t round = 0; round < kEvaluations; ++round) {
    for (size_t i = 0; i < ks.size(); ++i) {
      results[i] = evaluate(trainer.model(), trainer.valid_text(), lengths, ks[i], "valid");
      speeds[i].add(results[i].tokens_per_second);
    }
  }
  Json json = Json::array();
  for (size_t i = 0; i < ks.size(); ++i) {
    Json line{{"k", results[i].dial == Dial::kK ? Json(ks[i]) : Json(nullptr)}};
    add_spread(line, "tokens_per_second", speeds[i], 1);
    line["tokens"] = results[i].tokens;
    line["nll"] = results[i].nll;
    line["flops_per_token"] = results[i].flops_per_token;
    json.push_back(line);
  }
  return json;
}

Json profile_steps(Trainer& trainer) {
  const double seconds = seconds_of([&] { trainer.train_step(nullptr); });
  const auto steps = static_cast<int64_t>(std::clamp(2 / std::max(seconds, 1e-9), 1.0, double{kProfiledSteps}));
  return to_json(profile([&] {
                   for (int64_t i = 0; i < steps; ++i) trainer.train_step(nullptr);
                 }),
                 steps);
}

/// Gives the recipe one k, steps enough, and a text where it has none.
void prepare(Recipe& recipe, const StepOptions& options, const std::filesystem::path& folder, int64_t steps) {
  if (has_k(recipe)) recipe.k_schedule.min = recipe.k_schedule.max = options.k;
  recipe.train.steps = std::max(recipe.train.steps, steps);
  if (!recipe.data.path.empty()) return;
  recipe.data.path = (folder / "text").string();
  recipe.data.format = "bytes";
  write_texts(recipe.data.path, recipe.train, steps);
}

/// What is trained, and how.
Json describe(const Recipe& recipe, const StepOptions& options, Trainer& trainer) {
  const TrainConfig& train = recipe.train;
  int64_t parameters = 0;
  for (const at::Tensor& parameter : trainer.model().parameters()) parameters += parameter.numel();
  return {{"k", has_k(recipe) ? Json(options.k) : Json(nullptr)},
          {"dtype", train.dtype},
          {"device", train.device},
          {"threads", at::get_num_threads()},
          {"kernel", name_of(forced_kernels())},
          {"batch", train.batch},
          {"accumulate", train.accumulate},
          {"segment", train.segment},
          {"memory", train.memory},
          {"parameters", parameters},
          {"warm_up", warm_up_steps(train)},
          {"repeat", options.repeat}};
}

void add_evaluations(Json& json, Trainer& trainer, const TrainConfig& train, const std::vector<int64_t>& ks) {
  const EvalLengths lengths = eval_lengths(train);
  json["eval_batch"] = lengths.batch;
  json["eval_segment"] = lengths.segment;
  json["eval_memory"] = lengths.memory;
  json["eval"] = evaluate_at(trainer, train, ks);
  json["eval_tokens_per_second"] = nullptr;
  for (const Json& entry : json["eval"]) {
    if (entry["k"] == json["k"]) json["eval_tokens_per_second"] = entry["tokens_per_second"];
  }
}

}  // namespace

bool has_k(const Recipe& recipe) { return recipe.spec(1).has_moe(); }

Json measure_step(Recipe recipe, const StepOptions& options) {
  const TemporaryFolder folder;
  const int64_t warm_up = warm_up_steps(recipe.train);
  prepare(recipe, options, folder.path(), warm_up + options.repeat + kProfiledSteps + 1);
  recipe.check();
  const int64_t rss_before = peak_rss_bytes();
  const at::Device device = recipe.train.device == "cuda" ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  const auto gpu = device.is_cpu() ? nullptr : std::make_unique<LiveMemory>(device);
  Trainer trainer(RunFolder::create(folder.path() / "run", recipe), recipe);
  for (int64_t i = 0; i < warm_up; ++i) trainer.train_step(nullptr);
  StepClock clock(trainer, device);
  Trainer::StepResult last;
  for (int64_t i = 0; i < options.repeat; ++i) {
    clock.begin_step();
    last = trainer.train_step(nullptr);
  }
  trainer.listen(nullptr);
  const int64_t rss = peak_rss_bytes();
  const Json gpu_bytes = gpu ? Json(gpu->peak()) : Json(nullptr);

  const TrainConfig& train = recipe.train;
  const Samples totals = clock.totals();
  const Json middle = clock.middle_ms();
  Json json = describe(recipe, options, trainer);
  json["tokens_per_second"] = static_cast<double>(last.tokens) / middle["total"].get<double>() * 1e3;
  json["train_ms"] = middle;
  json["train_ms_quartiles"] = {totals.quantile(0.25) * 1e3, totals.quantile(0.75) * 1e3};
  const Lengths lengths{.batch = train.batch, .segment = train.segment, .memory = train.memory};
  json["flops_per_token"] = trainer.model().flops_per_token(lengths, static_cast<double>(options.k));
  json["loss"] = last.loss;
  json["peak_rss_bytes"] = rss;
  json["start_rss_bytes"] = rss_before;
  json["peak_gpu_bytes"] = gpu_bytes;
  if (options.profile) json["profile"] = profile_steps(trainer);
  add_evaluations(json, trainer, train, options.eval_k);
  json["machine"] = machine();
  return json;
}

}  // namespace smoe::bench
