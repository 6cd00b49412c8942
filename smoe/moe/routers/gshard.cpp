// gshard: top-2 with a random second expert (Lepikhin et al., "GShard", ICLR 2021, algorithm 1).
//
//   p = softmax(W x),  e1, e2 the two likeliest,  w1 = p_e1/(p_e1 + p_e2),  w2 = p_e2/(p_e1 + p_e2)
//   in training e2 stays with probability min(1, 2 w2); w1 stays what it is
//   loss: E · Σ_i f_i P_i, f_i the share of tokens whose first expert is i, P_i the mean probability
//
// The published loss has a mean in place of the sum, twice: E² less, which its weight makes up for. An expert at its
// capacity takes first choices before second ones: moe.drop_priority = "choice". x [T, D] → expert, weight [T, 2].
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/routers/linear_router.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kNone, .trainable = true};

class GshardRouter : public LinearRouter {
 public:
  GshardRouter(const MoeConfig& config, int64_t width, const RandomStream& random)
      : LinearRouter(config, width, random), settings_(config.routers.gshard) {}

  Routing route(const RouteInput& input) override {
    const Logits logits = score(input.x);
    const Probabilities probabilities = softmax_over_all(logits);
    Selection selection = select_top_k(probabilities.value, std::min<int64_t>(2, logits.value.size(1)));
    at::Tensor weight = weigh_by_share(selection);
    const at::Tensor first = selection.expert.select(1, 0);
    if (input.training && settings_.random_second) {
      const at::Tensor left_out = without_second(input, weight.detach());
      selection.expert = selection.expert.masked_fill(left_out, -1);
      weight = weight.masked_fill(left_out, 0);
    }
    Routing routing{
        .expert = selection.expert, .weight = weight, .logits = logits, .probabilities = probabilities, .state = {}};
    if (input.training && settings_.balance > 0) {
      routing.terms["gshard.balance"] = {first_choice_balance(first, probabilities, input.batch.valid),
                                         settings_.balance};
    }
    return routing;
  }

  RouterTraits traits() const override { return kTraits; }
  bool wants_statistics() const override { return settings_.balance > 0; }

 private:
  /// bool [T, K]: true where a token's second expert is left out.
  static at::Tensor without_second(const RouteInput& input, const at::Tensor& weight) {
    if (weight.size(1) < 2) return at::zeros_like(weight, at::kBool);
    const at::Tensor rows = at::arange(weight.size(0), weight.options().dtype(at::kLong));
    const at::Tensor draw = input.random.at("second").uniform_rows(rows, 1);
    const at::Tensor second = (weight.narrow(1, 1, 1) * 2).lt(draw);
    return at::cat({at::zeros_like(second), second}, 1);
  }

  /// E · Σ f·P over the valid tokens; first int32 [T].
  static at::Tensor first_choice_balance(const at::Tensor& first, const Probabilities& probabilities,
                                         const at::Tensor& valid) {
    at::Tensor p = probabilities.value;
    const int64_t experts = p.size(1);
    at::Tensor chosen = first.unsqueeze(1).eq(at::arange(experts, first.options())).to(p.scalar_type());  // [T, E]
    double tokens = static_cast<double>(p.size(0));
    if (valid.defined()) {
      const at::Tensor padding = valid.logical_not().unsqueeze(1);
      p = p.masked_fill(padding, 0);
      chosen = chosen.masked_fill(padding, 0);
      tokens = valid.sum().item<double>();
    }
    tokens = std::max(tokens, 1.0);
    return (chosen.sum(0) / tokens * p.sum(0) / tokens).sum() * static_cast<double>(experts);
  }

  GshardSettings settings_;
};

}  // namespace

RouterKind gshard_kind() {
  return {.name = "gshard",
          .summary = "top-2, the second expert at random by its weight; weights sum to 1 (GShard)",
          .paper = "Lepikhin et al., ICLR 2021",
          .traits = kTraits,
          .published = {"moe.capacity_factor=1.0", "moe.drop_priority=choice"},
          .make = [](const MoeConfig& config, const RouterPlace& place, const RandomStream& random) {
            return std::make_shared<GshardRouter>(config, place.width, random);
          }};
}

}  // namespace smoe
