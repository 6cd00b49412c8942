#include "smoe/train/recipe.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "smoe/base/error.h"
#include "smoe/moe/router.h"

namespace smoe {
namespace {

constexpr double kLongest = 1 << 24;  // of what is multiplied with each other and with widths

}  // namespace

void TrainConfig::describe(Fields& fields) {
  fields.add("batch", &batch, "parallel streams of text (B)", between(1, kLongest));
  fields.add("segment", &segment, "tokens of each stream in a step (S)", between(1, kLongest));
  fields.add("memory", &memory, "past tokens that attention sees beside the segment (M)", between(0, kLongest));
  fields.add("accumulate", &accumulate, "micro-batches a step is computed in; divides batch", at_least(1));
  fields.add("steps", &steps, "optimizer updates; the k schedule and the learning rate run over as many", at_least(1));
  fields.add("log_every", &log_every, "steps between lines of metrics.jsonl", at_least(1));
  fields.add("eval_every", &eval_every, "steps between evaluations on valid, at k = E and at small_k", at_least(1));
  fields.add("eval_batch", &eval_batch, "parallel streams of an evaluation", between(1, kLongest));
  fields.add("eval_segment", &eval_segment, "segment of an evaluation; its memory is memory + segment − eval_segment",
             between(1, kLongest));
  fields.add("eval_tokens", &eval_tokens, "most tokens of valid that an evaluation in training reads; 0: all",
             at_least(0));
  fields.add("small_k", &small_k, "the small k that best_small is chosen at", at_least(1));
  fields.add("checkpoint_every", &checkpoint_every, "steps between checkpoints", at_least(1));
  fields.add("keep_last", &keep_last, "how many of the latest checkpoints stay, beside the best", at_least(1));
  fields.add("seed", &seed, "seed of weights and dropout", at_least(0));
  fields.add_newer("init", &init,
                   "run or checkpoint of such a model, whose weights are where training begins; empty: they are drawn");
  fields.add("threads", &threads, "threads to compute with; 0: one a core", between(0, 4096));
  fields.add("device", &device, "where to compute", one_of({"cpu", "cuda"}));
  fields.add("dtype", &dtype, "what matrix products compute in; parameters stay fp32", one_of({"fp32", "bf16"}));
}

void OptimizerConfig::describe(Fields& fields) {
  fields.add("kind", &kind, "the optimizer", one_of({"adam", "adamw"}));
  fields.add("lr", &lr, "learning rate at its highest", Allowed{.min = 0, .max = 1e30, .open_min = true, .names = {}});
  fields.add("schedule", &schedule, "how the learning rate falls to zero", one_of({"cosine", "linear", "constant"}));
  fields.add("warmup", &warmup, "steps over which the learning rate rises to its schedule", at_least(0));
  fields.add("clip_norm", &clip_norm, "largest L2 norm of the gradient, beyond which it is scaled down", above(0));
  fields.add("beta1", &beta1, "decay of the gradient's running mean", between(0, 0.999999));
  fields.add("beta2", &beta2, "decay of the squared gradient's running mean", between(0, 0.999999999));
  fields.add("epsilon", &epsilon, "added to the root of the squared mean", above(0));
  fields.add("weight_decay", &weight_decay, "weight decay: L2 for adam, decoupled for adamw", at_least(0));
}

Fields Recipe::fields() {
  Fields fields;
  fields.table("model", model);
  fields.table("moe", moe);
  fields.table("k_schedule", k_schedule);
  fields.table("objective", objective);
  fields.table("losses", losses);
  fields.table("data", data);
  fields.table("train", train);
  fields.table("optimizer", optimizer);
  fields.table("freeze", freeze);
  fields.table("average", average);
  fields.table("spawn", spawn);
  return fields;
}

void Recipe::check() const {
  const ModelSpec model_spec = spec(1);
  model_spec.check();
  require(train.batch % train.accumulate == 0, "train.accumulate = ", train.accumulate,
          " must divide train.batch = ", train.batch);
  require(train.eval_segment <= train.memory + train.segment, "train.eval_segment = ", train.eval_segment,
          " must not exceed train.memory + train.segment = ", train.memory + train.segment);
  freeze.check(model_spec);
  average.check();
  spawn.check(model_spec, losses.devices);
  require(!spawn.is_on() || !average.is_on() || spawn.at <= average.start, "average.start = ", average.start,
          " is before spawn.at = ", spawn.at, ", but there is no mean of models with and without all experts");
  if (!model_spec.has_moe()) return;
  const RouterTraits traits = find_router_kind(moe.router).traits;
  require(traits.scores || !losses.any(), "[losses] has weights, but the router '", moe.router,
          "' has no probabilities that a loss could be made of; set them to 0");
  require(losses.device_balance == 0 || moe.experts % losses.devices == 0, "losses.devices = ", losses.devices,
          " does not divide moe.experts = ", moe.experts, ", but devices have as many experts each");
  if (traits.dial != Dial::kK) return;
  require(k_schedule.min <= k_schedule.max, "k_schedule.min = ", k_schedule.min,
          " is larger than k_schedule.max = ", k_schedule.max);
  require(k_schedule.max <= moe.experts, "k_schedule.max = ", k_schedule.max,
          " is larger than moe.experts = ", moe.experts, ": a token takes each expert at most once");
  require(train.small_k <= moe.experts, "train.small_k = ", train.small_k,
          " is larger than moe.experts = ", moe.experts);
}

KSchedule Recipe::schedule_of_k() const {
  return {k_schedule, train.steps, RandomStream(static_cast<uint64_t>(train.seed)).at("k schedule")};
}

double learning_rate(const OptimizerConfig& config, int64_t update, int64_t steps) {
  const double done = std::min(1.0, static_cast<double>(update) / static_cast<double>(steps));
  double factor = 1;
  if (config.schedule == "cosine") factor = 0.5 * (1 + std::cos(std::numbers::pi * done));
  if (config.schedule == "linear") factor = 1 - done;
  if (update < config.warmup) factor *= static_cast<double>(update + 1) / static_cast<double>(config.warmup);
  return config.lr * factor;
}

}  // namespace smoe
