// noisy_topk: top-k of noisy logits (Shazeer et al., "Outrageously Large Neural Networks", ICLR 2017, §2.1 and app. A).
//
//   s = softplus(W_n x) + floor,  h = W x + s ⊙ ε, ε ~ Normal(0, 1) in training, 0 otherwise
//   S = the k largest of h,  weight softmax over the selected h
//   importance: CV²(Σ_t weights);  load: CV²(Σ_t P(t, i)),
//   P(t, i) = Φ((W x − h's k-th largest among the others)_i / s_i), the chance that i is chosen if its noise is drawn anew
//
// CV² is the variance over the squared mean, over the experts. The paper starts W and W_n at zero and has no floor; here W
// starts as every router does, W_n at zero, and the floor is that of the authors' library. x [T, D] → expert, weight [T, K].
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/erf.h>
#include <ATen/ops/full.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <numbers>

#include "smoe/kernels/row_linear.h"
#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/routers/linear_router.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kK, .trainable = true};
constexpr double kFar = 1e15;  // past every logit, and its square is still a number of fp32

/// Variance over squared mean of [E].
at::Tensor squared_variation(const at::Tensor& values) {
  const at::Tensor mean = values.mean();
  return (values - mean).square().mean() / (mean.square() + 1e-10);
}

class NoisyTopkRouter : public LinearRouter {
 public:
  NoisyTopkRouter(const MoeConfig& config, int64_t width, const RandomStream& random)
      : LinearRouter(config, width, random), settings_(config.routers.noisy_topk) {
    noise_weight_ = register_parameter("noise_weight", random.zeros({config.experts, width}));
  }

  Routing route(const RouteInput& input) override {
    const Logits clean = score(input.x);
    if (!input.training) return answer(clean, input.k);
    const at::Tensor deviation = at::softplus(row_linear(input.x, noise_weight_, {})) + settings_.noise_floor;
    const at::Tensor noise = at::empty(clean.value.sizes(), clean.value.options().requires_grad(false));
    input.random.at("noise").fill_normal(noise, 0, 1);
    const Logits noisy = {clean.value + deviation * noise};
    Routing routing = answer(noisy, input.k);
    add_terms(routing, input, clean, deviation);
    return routing;
  }

  RouterTraits traits() const override { return kTraits; }
  int64_t flops_per_token() const override { return 2 * (weight_.numel() + noise_weight_.numel()); }
  bool wants_statistics() const override { return settings_.importance > 0 || settings_.load > 0; }

 private:
  static Routing answer(const Logits& logits, const ActiveK& k) {
    const Selection selection = select_top_k(logits.value, k);
    return {.expert = selection.expert,
            .weight = softmax_over_selected(selection),
            .logits = logits,
            .probabilities = softmax_over_all(logits),
            .state = {}};
  }

  void add_terms(Routing& routing, const RouteInput& input, const Logits& clean, const at::Tensor& deviation) const {
    const auto sum_of_valid = [&](const at::Tensor& values) {
      if (!input.batch.valid.defined()) return values.sum(0);
      return values.masked_fill(input.batch.valid.logical_not().unsqueeze(1), 0).sum(0);
    };
    if (settings_.importance > 0) {
      // Empty slots have weight 0, so that it does not matter where it is added.
      const at::Tensor place = routing.expert.clamp_min(0).to(at::kLong);
      const at::Tensor dense =
          at::zeros(clean.value.sizes(), clean.value.options()).scatter_add(1, place, routing.weight);
      routing.terms["noisy_topk.importance"] = {squared_variation(sum_of_valid(dense)), settings_.importance};
    }
    if (settings_.load > 0) {
      const at::Tensor chance = chance_of_choice(routing, input.k, clean, deviation);
      routing.terms["noisy_topk.load"] = {squared_variation(sum_of_valid(chance)), settings_.load};
    }
  }

  /// P(t, i), [T, E].
  static at::Tensor chance_of_choice(const Routing& routing, const ActiveK& k, const Logits& clean,
                                     const at::Tensor& deviation) {
    const at::Tensor& noisy = routing.logits.value;
    const int64_t tokens = noisy.size(0);
    // Place j of a row: its j-th largest; 0 and E + 1 are past both ends, where all or none are chosen.
    const at::Tensor sorted = std::get<0>(at::sort(noisy, -1, /*descending=*/true));
    const at::Tensor above = at::full({tokens, 1}, kFar, noisy.options().requires_grad(false));
    const at::Tensor places = at::cat({above, sorted, -above}, 1);
    const at::Tensor own_k = k.per_token.defined()
                                 ? k.per_token.to(at::kLong).unsqueeze(1)
                                 : at::full({tokens, 1}, k.uniform, routing.expert.options().dtype(at::kLong));
    const at::Tensor kth = places.gather(1, own_k), next = places.gather(1, own_k + 1);  // [T, 1]
    // A chosen expert is above the k-th largest of the others exactly where it is above the (k+1)-th of all.
    const at::Tensor chosen = noisy.ge(kth);
    const at::Tensor others = at::where(chosen, next, kth);
    return (at::erf((clean.value - others) / deviation * (1 / std::numbers::sqrt2)) + 1) * 0.5;
  }

  NoisyTopkSettings settings_;
  at::Tensor noise_weight_;
};

}  // namespace

RouterKind noisy_topk_kind() {
  return {.name = "noisy_topk",
          .summary = "top-k of logits with learned noise; importance and load losses (sparsely-gated MoE)",
          .paper = "Shazeer et al., ICLR 2017",
          .traits = kTraits,
          .make = [](const MoeConfig& config, const RouterPlace& place, const RandomStream& random) {
            return std::make_shared<NoisyTopkRouter>(config, place.width, random);
          }};
}

}  // namespace smoe
