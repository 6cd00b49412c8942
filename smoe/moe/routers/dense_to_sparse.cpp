// dense_to_sparse: many experts a token at first, few at the end (Nie et al., "EvoMoE", 2021; as a layer's gate in the
// published code of Chen et al., ICLR 2023).
//
//   training      π = softmax((W x + g) / τ), g Gumbel noise;  τ = max_temperature + p · (min_temperature − max_temperature)
//                 k' = max(k, ⌊mean over tokens of #{e : π_e > threshold}⌋);  S = the k' largest of π;  weight π_e
//   evaluation    S = the k largest of W x;  weight softmax over S, or softmax(W x)_e without renormalising
//
// p is the training's progress, from 0 to 1, a function of the step: a run that resumes has the temperature that it would
// have had. k' is one number for all tokens of a layer and a micro-batch, so in training a token's routing depends on the
// others by that much. Noise is −ln(1e-10 − ln(u + 1e-10)), u uniform. Losses see W x and softmax(W x).
// x [T, D] → expert, weight [T, K].
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>

#include <algorithm>

#include "smoe/moe/routers/gumbel.h"
#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/routers/linear_router.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kK, .trainable = true, .more_in_training = true};

/// k, or `least` where that is more; a k that cannot be stays what it is, to be refused.
ActiveK at_least(const ActiveK& k, int64_t least) {
  if (!k.per_token.defined()) return k.uniform < 1 ? k : std::max(k.uniform, least);
  return ActiveK(at::where(k.per_token.lt(0), k.per_token, k.per_token.clamp_min(least)));
}

class DenseToSparseRouter : public LinearRouter {
 public:
  DenseToSparseRouter(const MoeConfig& config, int64_t width, const RandomStream& random)
      : LinearRouter(config, width, random), settings_(config.routers.dense_to_sparse) {}

  Routing route(const RouteInput& input) override {
    const Logits logits = score(input.x);
    const Probabilities clean = softmax_over_all(logits);
    const bool over_all = settings_.eval_weight == "softmax";
    Selection selection;
    at::Tensor weight;
    if (input.training) {
      const at::Tensor noisy =
          at::softmax((logits.value + gumbel_like(logits.value, input.random.at("gumbel"))) / temperature(input), -1);
      selection = select_top_k(noisy, at_least(input.k, layer_k(noisy.detach(), input.batch.valid)));
      weight = weigh_by_score(selection);
    } else {
      selection = select_top_k(over_all ? clean.value : logits.value, input.k);
      weight = over_all ? weigh_by_score(selection) : softmax_over_selected(selection);
    }
    return {.expert = selection.expert, .weight = weight, .logits = logits, .probabilities = clean, .state = {}};
  }

  RouterTraits traits() const override { return kTraits; }

 private:
  double temperature(const RouteInput& input) const {
    const double p = std::clamp(input.progress, 0.0, 1.0);
    return settings_.max_temperature + p * (settings_.min_temperature - settings_.max_temperature);
  }

  /// How many experts a token gives more than the threshold, the mean over the valid ones without its fraction.
  int64_t layer_k(const at::Tensor& noisy, const at::Tensor& valid) const {
    const at::Tensor taken = noisy.gt(settings_.threshold);
    const int64_t tokens = valid.defined() ? valid.sum().item<int64_t>() : noisy.size(0);
    const at::Tensor counted = valid.defined() ? taken.logical_and(valid.unsqueeze(1)) : taken;
    return counted.sum().item<int64_t>() / std::max<int64_t>(1, tokens);
  }

  DenseToSparseSettings settings_;
};

void check(const MoeConfig& config) {
  const DenseToSparseSettings& settings = config.routers.dense_to_sparse;
  check_cooling("dense_to_sparse", settings.max_temperature, settings.min_temperature);
}

}  // namespace

RouterKind dense_to_sparse_kind() {
  return {.name = "dense_to_sparse",
          .summary = "noisy softmax that cools over the training, from nearly all experts down to k",
          .paper = "Nie et al., 2021; Chen et al., ICLR 2023 (published code)",
          .traits = kTraits,
          .published = {"k_schedule.kind=constant", "k_schedule.min=2", "k_schedule.max=2"},
          .make =
              [](const MoeConfig& config, const RouterPlace& place, const RandomStream& random) {
                return std::make_shared<DenseToSparseRouter>(config, place.width, random);
              },
          .check = check};
}

}  // namespace smoe
