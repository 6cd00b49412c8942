// evomoe: a gate that is dense at first, sparser as it cools, and at last takes k experts (Nie et al., "EvoMoE", 2021: its
// dense-to-sparse gate). Spawning the experts from one, the system's other half, is the event [spawn].
//
//   training      p = softmax(z), z = W x;  q = softmax((z + g)/τ), g Gumbel noise
//                 S = {e: q_e > threshold}, but no fewer than the k largest of q; from `hard_from` on those k alone
//                 weight p_e or q_e, not renormalised
//   evaluation    S = the k largest of p, weight p_e
//   loss          E · Σ_i f_i P_i, f_i the share of the assignments, P_i the mean weight that tokens give to i
//
// τ falls from max_temperature to min_temperature up to `cool_until`, evenly (linear) or in its logarithm (exponential), as
// a function of the progress. The published k is 1. The published loss counts f a token, so that it grows with how many
// experts a token takes; here it sums to 1, as everywhere, which is the same once k is 1. dense_to_sparse is the form of the
// same gate that has one number of experts for all tokens. x [T, D] → expert, weight [T, K].
#include <ATen/ops/maximum.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "smoe/moe/routers/class_balance.h"
#include "smoe/moe/routers/gumbel.h"
#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/routers/linear_router.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kK, .trainable = true, .more_in_training = true};

/// k, or for each token as many as it `takes`, int64 [T], where those are more; a k that cannot be is left to be refused.
ActiveK at_least(const ActiveK& k, const at::Tensor& takes) {
  if (!k.per_token.defined() && k.uniform < 1) return k;
  if (!k.per_token.defined()) return ActiveK(takes.clamp_min(k.uniform).to(at::kInt));
  if (k.per_token.sizes() != takes.sizes()) return k;
  return ActiveK(at::maximum(k.per_token, takes.to(at::kInt)));
}

class EvomoeRouter : public LinearRouter {
 public:
  EvomoeRouter(const MoeConfig& config, int64_t width, const RandomStream& random)
      : LinearRouter(config, width, random), settings_(config.routers.evomoe) {}

  Routing route(const RouteInput& input) override {
    const Logits logits = score(input.x);
    const Probabilities clean = softmax_over_all(logits);
    Routing routing{.expert = {}, .weight = {}, .logits = logits, .probabilities = clean, .state = {}};
    if (!input.training) {
      const Selection selection = select_top_k(clean.value, input.k);
      routing.expert = selection.expert;
      routing.weight = weigh_by_score(selection);
      return routing;
    }
    const at::Tensor noise = gumbel_like(logits.value, input.random.at("gumbel"));
    const at::Tensor noisy = at::softmax((logits.value + noise) / temperature(input.progress), -1);
    const at::Tensor& weights = settings_.weight == "softmax" ? clean.value : noisy;
    routing.expert = select_top_k(noisy.detach(), active(input, noisy)).expert;
    routing.weight = weigh_by_score(with_scores(routing.expert, weights));
    if (settings_.balance > 0)
      routing.terms["evomoe.balance"] = {balance(routing, input.batch.valid), settings_.balance};
    return routing;
  }

  RouterTraits traits() const override { return kTraits; }
  bool wants_statistics() const override { return settings_.balance > 0; }

 private:
  double temperature(double progress) const {
    const double part = std::clamp(settings_.cool_until > 0 ? progress / settings_.cool_until : 1.0, 0.0, 1.0);
    const double from = settings_.max_temperature, to = settings_.min_temperature;
    return settings_.decay == "linear" ? from + part * (to - from) : from * std::pow(to / from, part);
  }

  /// How many experts each token takes in training.
  ActiveK active(const RouteInput& input, const at::Tensor& noisy) const {
    if (input.progress >= settings_.hard_from) return input.k;
    return at_least(input.k, noisy.gt(settings_.threshold).sum(-1));
  }

  static at::Tensor balance(const Routing& routing, const at::Tensor& valid) {
    // Empty slots have weight 0, so that it does not matter where it is added.
    const at::Tensor place = routing.expert.clamp_min(0).to(at::kLong);
    const at::Tensor given = at::zeros_like(routing.probabilities.value.detach()).scatter_add(1, place, routing.weight);
    const Balance of = balance_of(routing.expert, {given}, valid);
    return (of.share * of.probability).sum() * static_cast<double>(of.share.numel());
  }

  EvomoeSettings settings_;
};

void check(const MoeConfig& config) {
  const EvomoeSettings& settings = config.routers.evomoe;
  check_cooling("evomoe", settings.max_temperature, settings.min_temperature);
}

}  // namespace

RouterKind evomoe_kind() {
  return {
      .name = "evomoe",
      .summary =
          "each token's experts above a threshold of a noisy softmax that cools, at last k; see [spawn] (EvoMoE)",
      .paper = "Nie et al., 2021",
      .traits = kTraits,
      .published = {"moe.eval_capacity_factor=4", "k_schedule.kind=constant", "k_schedule.min=1", "k_schedule.max=1"},
      .make = [](const MoeConfig& config, const RouterPlace& place,
                 const RandomStream& random) { return std::make_shared<EvomoeRouter>(config, place.width, random); },
      .check = check};
}

}  // namespace smoe
