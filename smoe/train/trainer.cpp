#include "smoe/train/trainer.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <numbers>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/progress.h"
#include "smoe/moe/moe_layer.h"
#include "smoe/tensor/gpu.h"

namespace smoe {
namespace {

using Clock = std::chrono::steady_clock;

Recipe prepared(Recipe recipe) {
  recipe.check();
  if (recipe.train.threads > 0) at::set_num_threads(static_cast<int>(recipe.train.threads));
  require_device(recipe.train.device, "train.device = \"" + recipe.train.device + "\"");
  return recipe;
}

std::string text_name(const CorpusFiles& files, Split split) { return files.path() + " (" + split_name(split) + ")"; }

TokenSequence checked_text(const CorpusFiles& files, Split split, const ByteVocabulary& vocabulary) {
  TokenSequence text(files.bytes(split), vocabulary, text_name(files, split),
                     split == Split::kTrain ? files.families_of_train() : std::vector<LabelRun>());
  require(text.size() >= 2, text_name(files, split), " has ", text.size(), " tokens, training needs at least two");
  return text;
}

}  // namespace

void check_families(const Recipe& recipe, const CorpusFiles& files) {
  const MoeConfig& moe = recipe.moe;
  if (!recipe.spec(1).has_moe() || !find_router_kind(moe.router).traits.families) return;
  const auto families = static_cast<int64_t>(files.families().size());
  require(families > 0, "the router '", moe.router, "' is trained on texts whose language is told, and ", files.path(),
          " is one text of none: name a table of languages with --data (docs/formats.md), or take another moe.router");
  require(families <= moe.networks(), files.path(), " has ", families,
          " families of languages, and moe.experts = ", moe.experts, " leaves ", moe.networks(),
          " networks, an expert each: more experts, or fewer families");
}

std::unique_ptr<Trainer> start_training(const Recipe& recipe, const std::filesystem::path& out) {
  recipe.check();
  // Data that does not fit is refused before there is a run folder.
  const CorpusFiles files(recipe.data.path);
  for (const Split split : {Split::kTrain, Split::kValid}) {
    require(files.bytes(split).size() >= 2, text_name(files, split), " has ", files.bytes(split).size(),
            " bytes, training needs at least two");
  }
  check_families(recipe, files);
  if (!recipe.train.init.empty()) check_initial_model(recipe, make_vocabulary(recipe.data.format, files));
  return std::make_unique<Trainer>(RunFolder::create(out, recipe), recipe);
}

Trainer::Trainer(RunFolder run, Recipe recipe)
    : run_(std::move(run)),
      recipe_(prepared(std::move(recipe))),
      files_(recipe_.data.path),
      vocabulary_(make_vocabulary(recipe_.data.format, files_)),
      train_text_(checked_text(files_, Split::kTrain, vocabulary_)),
      valid_text_(checked_text(files_, Split::kValid, vocabulary_)),
      model_(drawn_model(0)),
      optimizer_(*model_, recipe_.optimizer),
      k_schedule_(recipe_.schedule_of_k()),
      objective_(make_objective(recipe_.objective)),
      stream_(train_text_, recipe_.train.batch * group_.size(), recipe_.train.segment,
              recipe_.train.batch * group_.rank(), recipe_.train.batch, text_name(files_, Split::kTrain)),
      store_(run_.checkpoints(), recipe_.train.keep_last),
      plateau_(unigram_bits(train_text_), plateau_first_check(recipe_.train.steps, recipe_.optimizer.warmup)),
      data_sha256_(files_.sha256()) {
  check_families(recipe_, files_);
  const int64_t rows = recipe_.train.batch / recipe_.train.accumulate;
  for (int64_t i = 0; i < recipe_.train.accumulate; ++i) memories_.push_back(model_->empty_memory(rows));
  const bool goes_on = !store_.index().last.name.empty();
  if (!goes_on) take_initial_weights();
  attend_to_model();
  if (goes_on) {
    load(store_.last());
  } else {
    freeze_parts(0);
  }
  store_.remove_stale();
  nlohmann::ordered_json data{{"path", files_.path()}, {"sha256", data_sha256_}};
  if (!files_.families().empty()) data["families"] = files_.families();
  run_.write_environment(data);
  metrics_ = std::make_unique<MetricsLog>(run_.path(), goes_on ? step_ : -1);
  timing_ = std::make_unique<JsonLines>(run_.path() / "timing.jsonl", goes_on ? step_ : -1);
}

Trainer::~Trainer() = default;

Pass Trainer::make_pass(const Segment& segment, int64_t micro_batch, int64_t k, StatsBook* book) const {
  const RandomStream random = RandomStream(static_cast<uint64_t>(recipe_.train.seed)).at("steps");
  Pass pass{.k = k,
            .training = true,
            .step = step_,
            .progress = static_cast<double>(step_) / static_cast<double>(recipe_.train.steps),
            .random = random.at(static_cast<uint64_t>(step_)).at(static_cast<uint64_t>(micro_batch)),
            .memory_length = recipe_.train.memory,
            .book = book};
  if (segment.label.defined()) {
    const int64_t rows = segment.label.size(0) / recipe_.train.accumulate;
    pass.tags[kFamilyTag] = segment.label.narrow(0, micro_batch * rows, rows).to(at::Device(recipe_.train.device));
  }
  return pass;
}

Trainer::StepResult Trainer::train_step(StatsBook* book) {
  StatsBook own(StatsBook::Detail::kTerms);
  if (wants_statistics_ && book == nullptr) book = &own;
  if (book != nullptr) book->share_among(group_);
  StepResult result;
  result.k = within_experts(k_schedule_.k(step_));
  result.lr = learning_rate(recipe_.optimizer, step_, recipe_.train.steps);
  const std::vector<Memory> memories_before = memories_;  // tensors are shared, and replaced rather than changed
  const StreamPosition position_before = stream_.position();
  const Segment segment = stream_.next();
  const int64_t micro_batches = recipe_.train.accumulate, rows = segment.input.size(0) / micro_batches;
  const at::Device device(recipe_.train.device);
  optimizer_.zero_gradients();
  done("data");
  for (int64_t i = 0; i < micro_batches; ++i) {
    Memory& memory = memories_[static_cast<size_t>(i)];
    if (segment.starts_epoch) memory = model_->empty_memory(rows);
    if (book != nullptr) book->begin_micro_batch(i);
    const ObjectiveResult task = objective_->compute(*model_, segment.input.narrow(0, i * rows, rows).to(device),
                                                     segment.target.narrow(0, i * rows, rows).to(device), memory,
                                                     make_pass(segment, i, result.k, book));
    done("forward");
    result.loss += task.nll / static_cast<double>(micro_batches);
    const at::Tensor loss = objective_of(task, book, result) / static_cast<double>(micro_batches);
    if (!std::isfinite(loss.item<double>())) {
      stop_on_bad_value("loss", segment, memories_before, position_before, result.k);
    }
    done("loss");
    loss.backward();
    done("backward");
  }
  result.gradient_norm = optimizer_.gradient_norm();
  if (!std::isfinite(result.gradient_norm)) {
    stop_on_bad_value("gradient", segment, memories_before, position_before, result.k);
  }
  done("norm");
  optimizer_.step(result.lr, result.gradient_norm);
  if (wants_statistics_ && !routers_frozen_) {
    const std::vector<LayerStats> stats = book->layers(group_);
    size_t layer = 0;
    for (MoeLayer* mixture : model_->mixtures()) mixture->router().after_update(stats.at(layer++));
  }
  done("optimizer");
  result.tokens = segment.input.numel();
  ++step_;
  tokens_ += result.tokens;
  spawn_experts();
  freeze_parts(step_);
  return result;
}

void Trainer::freeze_parts(int64_t first) {
  for (const FrozenPart& part : frozen_parts(recipe_.freeze, step_, recipe_.train.steps)) {
    if (part.step < first) continue;
    optimizer_.forget(freeze(*model_, part));
    routers_frozen_ = routers_frozen_ || part.name == "router";
  }
}

at::Tensor Trainer::objective_of(const ObjectiveResult& task, const StatsBook* book, StepResult& result) const {
  std::vector<NamedLoss> parts = task.parts;
  if (wants_statistics_) {
    const LossConfig of_routing = book->terms().empty() ? LossConfig() : recipe_.losses;  // a dense model has none
    for (NamedLoss& loss : auxiliary_losses(*book, of_routing)) parts.push_back(std::move(loss));
  }
  at::Tensor sum = task.loss;
  result.losses.resize(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].weight > 0) sum = sum + parts[i].value * parts[i].weight;
    result.losses[i].first = parts[i].name;
    result.losses[i].second += parts[i].value.item<double>() / static_cast<double>(recipe_.train.accumulate);
  }
  return sum;
}

void Trainer::stop_on_bad_value(const std::string& what, const Segment& segment, const std::vector<Memory>& memories,
                                const StreamPosition& position, int64_t k) {
  // The same forward once more, now looking at every part: the first output that is not finite is where it began.
  std::string part = what == "gradient" ? optimizer_.first_bad_gradient() : "";
  const at::Device device(recipe_.train.device);
  const int64_t rows = segment.input.size(0) / recipe_.train.accumulate;
  for (int64_t i = 0; part.empty() && i < recipe_.train.accumulate; ++i) {
    const at::NoGradGuard no_grad;
    Memory memory = segment.starts_epoch ? model_->empty_memory(rows) : memories[static_cast<size_t>(i)];
    Pass pass = make_pass(segment, i, k, nullptr);
    pass.probe = [&part](const std::string& name, const at::Tensor& output) {
      if (part.empty() && !output.isfinite().all().item<bool>()) part = name;
    };
    model_->forward(segment.input.narrow(0, i * rows, rows).to(device), memory, pass);
  }
  memories_ = memories;
  stream_.seek(position);
  save({});
  throw Failure(concat("step ", step_ + 1, ": the ", what, " is not finite; it began in ",
                       part.empty() ? "the loss" : part, ". The state before this step is in ", store_.last().string(),
                       ". A lower optimizer.lr or a smaller optimizer.clip_norm may help"));
}

bool Trainer::run(const std::atomic<int>& stop, std::FILE* progress) {
  const TrainConfig& train = recipe_.train;
  ProgressBar bar(run_.path().filename().string(), step_, train.steps, progress);
  const Clock::time_point start = Clock::now();
  Clock::time_point last_line = start;
  int64_t tokens_at_line = tokens_;
  double rate = 0;  // running mean of tokens a second
  while (step_ < train.steps) {
    const Clock::time_point before = Clock::now();
    const bool logged = (step_ + 1) % train.log_every == 0 || step_ + 1 == train.steps;
    StatsBook book(wants_statistics_ ? StatsBook::Detail::kTerms : StatsBook::Detail::kAll);
    const StepResult result = train_step(logged ? &book : nullptr);
    loss_sum_ += result.loss;
    ++loss_count_;
    const double bits = result.loss / std::numbers::ln2;
    if (const auto warning = plateau_.observe(step_, bits)) bar.note(*warning);
    for (const FrozenPart& part : frozen_parts(recipe_.freeze, step_, train.steps)) {
      if (part.step == step_) bar.note(concat("step ", step_, ": ", part.name, " frozen"));
    }
    if (recipe_.spawn.is_on() && step_ == recipe_.spawn.step(train.steps)) {
      bar.note(concat("step ", step_, ": each mixture has ", recipe_.moe.experts, " experts from here on"));
    }
    const std::chrono::duration<double> took = Clock::now() - before;
    const double rate_now = static_cast<double>(result.tokens) / took.count();
    rate = rate == 0 ? rate_now : 0.95 * rate + 0.05 * rate_now;
    if (logged) {
      log(result, book);
      const std::chrono::duration<double> since_line = Clock::now() - last_line, since_start = Clock::now() - start;
      timing_->write({{"step", step_},
                      {"seconds", since_start.count()},
                      {"tokens_per_second", static_cast<double>(tokens_ - tokens_at_line) / since_line.count()}});
      last_line = Clock::now();
      tokens_at_line = tokens_;
    }
    char text[128], dial[32] = "";
    if (model_->dial() == Dial::kK) std::snprintf(dial, sizeof dial, "  k %lld", static_cast<long long>(result.k));
    std::snprintf(text, sizeof text, "step %lld  loss %.3f  %.3f bpc%s  %.1fk tok/s", static_cast<long long>(step_),
                  result.loss, bits, dial, rate / 1000);
    bar.update(step_, text);

    const bool last = step_ == train.steps;
    CheckpointStore::Scores scores;
    if (average_ && recipe_.average.takes(step_, train.eval_every, train.steps)) average_->add(*model_);
    if (step_ % train.eval_every == 0 || last) {
      scores = evaluate_valid(bar);
      evaluate_average(bar);
    }
    const bool stopped = stop.load() != 0;
    if (step_ % train.checkpoint_every == 0 || last || stopped || store_.improves(scores)) save(scores);
    if (stopped) break;
  }
  save_average();
  bar.finish();
  return step_ >= train.steps;
}

void Trainer::log(const StepResult& result, const StatsBook& book) {
  const double loss = loss_sum_ / static_cast<double>(loss_count_);
  nlohmann::ordered_json line{{"step", step_},
                              {"tokens", tokens_},
                              {"loss", loss},
                              {"bpc", loss / std::numbers::ln2},
                              {"k", model_->dial() == Dial::kK ? nlohmann::ordered_json(result.k) : nullptr},
                              {"lr", result.lr},
                              {"grad_norm", result.gradient_norm},
                              {"layers", nlohmann::ordered_json::array()}};
  for (const auto& [name, value] : result.losses) line["losses"][name] = value;
  for (const FrozenPart& part : frozen_parts(recipe_.freeze, step_, recipe_.train.steps)) {
    line["frozen"][part.name] = part.step;
  }
  for (const LayerStats& layer : book.layers(group_)) {
    const at::Tensor load = layer.load();
    std::vector<double> by_expert(load.const_data_ptr<double>(), load.const_data_ptr<double>() + load.numel());
    // Experts that are not spawned yet take nothing.
    if (recipe_.spawn.is_on()) by_expert.resize(static_cast<size_t>(recipe_.moe.experts), 0);
    line["layers"].push_back(
        {{"load", by_expert}, {"entropy", layer.mean_entropy()}, {"dropped", layer.dropped_fraction()}});
  }
  metrics_->write(line);
  loss_sum_ = 0;
  loss_count_ = 0;
}

EvalResult Trainer::measure(std::optional<double> dial, const std::string& split) {
  EvalLengths lengths = eval_lengths(recipe_.train);
  lengths.tokens = recipe_.train.eval_tokens;
  const EvalResult result = evaluate(*model_, valid_text_, lengths, dial, text_name(files_, Split::kValid));
  nlohmann::ordered_json line{{"step", step_}, {"split", split}};
  line["k"] = nullptr;
  if (result.dial == Dial::kK) line["k"] = static_cast<int64_t>(*result.value);
  line["nll"] = result.nll;
  line["bpc"] = result.bpc;
  metrics_->write(line);
  return result;
}

CheckpointStore::Scores Trainer::evaluate_valid(ProgressBar& bar) {
  const EvalResult full = measure(std::nullopt, "valid");
  char text[128];
  if (full.dial != Dial::kK) {
    std::snprintf(text, sizeof text, "step %lld: valid %.4f bpc", static_cast<long long>(step_), full.bpc);
    bar.note(text);
    return {.full = full.nll, .small = full.nll};
  }
  const EvalResult small = measure(static_cast<double>(within_experts(recipe_.train.small_k)), "valid");
  std::snprintf(text, sizeof text, "step %lld: valid %.4f bpc at k = %lld, %.4f at k = %lld",
                static_cast<long long>(step_), full.bpc, static_cast<long long>(*full.value), small.bpc,
                static_cast<long long>(*small.value));
  bar.note(text);
  return {.full = full.nll, .small = small.nll};
}

}  // namespace smoe
