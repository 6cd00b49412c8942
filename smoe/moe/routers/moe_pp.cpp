// moe_pp: top-k among networks and experts that cost next to nothing, with the logits of the layer below (Jin et al.,
// "MoE++", ICLR 2025, §3).
//
//   z = W x + V z',  z' the logits of the same token in the mixture below; z = W x in the lowest
//   S = the k largest of z,  weight exp(z_e) / Σ_{j∈S, j no null expert} exp(z_j), or softmax(z)_e; 0 of a null expert
//   loss: E · Σ_i η_i f_i P_i, η = 1 for networks and τ (moe.network_share) for the others
//
// The paper's text has softmax(z) as it is; its code renormalises, and doubles what goes into experts, which is not done
// here. At balance a token takes k τ n / (τ n + m) networks, n of them beside m others. The paper counts f a token and has
// no E: its weight β = 0.01 at k = 2 and E = 12 is 0.0017 here. Capacities by the same τ are moe.capacity_factor's.
// x [T, D], z' [T, E] → expert, weight [T, K], z [T, E] for the mixture above.
#include <ATen/ops/ones_like.h>

#include "smoe/base/error.h"
#include "smoe/kernels/row_linear.h"
#include "smoe/moe/routers/class_balance.h"
#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/routers/linear_router.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kK, .trainable = true, .state = true};

class MoePpRouter : public LinearRouter {
 public:
  MoePpRouter(const MoeConfig& config, const RouterPlace& place, const RandomStream& random)
      : LinearRouter(config, place.width, random),
        settings_(config.routers.moe_pp),
        network_share_(config.network_share),
        networks_(config.networks()),
        nulls_(config.null_experts) {
    if (place.below == 0) return;
    below_weight_ = register_parameter(
        "below_weight", random.at("below_weight").normal({config.experts, config.experts}, 0, config.router_init_std));
  }

  Routing route(const RouteInput& input) override {
    const Logits logits = score_with_below(input);
    const Probabilities probabilities = softmax_over_all(logits);
    const Selection selection = select_top_k(logits.value, input.k);
    const Selection weighed = without(selection, networks_, nulls_);
    Routing routing{.expert = selection.expert,
                    .weight = settings_.renormalize ? softmax_over_selected(weighed)
                                                    : weigh_by_score(with_scores(weighed.expert, probabilities.value)),
                    .logits = logits,
                    .probabilities = probabilities,
                    .state = logits.value};
    if (input.training && settings_.balance > 0) {
      const Balance balance = balance_of(selection.expert, probabilities, input.batch.valid);
      const at::Tensor eta = at::ones_like(balance.share);
      eta.narrow(0, networks_, eta.numel() - networks_).fill_(network_share_);
      const at::Tensor sum = (eta * balance.share * balance.probability).sum();
      routing.terms["moe_pp.balance"] = {sum * static_cast<double>(eta.numel()), settings_.balance};
    }
    return routing;
  }

  RouterTraits traits() const override { return kTraits; }
  bool wants_statistics() const override { return settings_.balance > 0; }

  int64_t flops_per_token() const override {
    return LinearRouter::flops_per_token() + (below_weight_.defined() ? 2 * below_weight_.numel() : 0);
  }

 private:
  Logits score_with_below(const RouteInput& input) const {
    Logits own = score(input.x);
    if (!below_weight_.defined()) return own;
    require(input.state.defined() && input.state.sizes() == own.value.sizes(),
            "the router 'moe_pp' needs the logits of ", "the mixture below, ", own.value.sizes(), ": RouteInput.state");
    return {own.value + row_linear(input.state, below_weight_, {})};
  }

  MoePpSettings settings_;
  double network_share_;
  int64_t networks_, nulls_;  // null experts have the ids after the networks'
  at::Tensor below_weight_;   // V [E, E]; undefined in the lowest mixture
};

}  // namespace

RouterKind moe_pp_kind() {
  return {
      .name = "moe_pp",
      .summary = "top-k among networks, null, copy and constant experts, with the logits of the mixture below (MoE++)",
      .paper = "Jin et al., ICLR 2025",
      .traits = kTraits,
      .published = {"moe.experts=12", "moe.null_experts=1", "moe.copy_experts=1", "moe.constant_experts=2",
                    "moe.network_share=0.75", "moe.capacity_factor=1.1", "k_schedule.kind=constant", "k_schedule.min=2",
                    "k_schedule.max=2"},
      .make = [](const MoeConfig& config, const RouterPlace& place, const RandomStream& random) {
        return std::make_shared<MoePpRouter>(config, place, random);
      }};
}

}  // namespace smoe
