// adamoe: top-k among networks and null experts, so that a token takes between 0 and k networks (Zeng et al., "AdaMoE",
// EMNLP Findings 2024, §3). n networks, m null experts (moe.null_experts), E = n + m.
//
//   z = W x,  S = the k largest of z,  weight exp(z_e) / Σ_{j∈S, j no null expert} exp(z_j); 0 of a null expert
//   loss: E · Σ_i f~_i P_i, f~_i = f_i for a network and the mean f of all null experts for each of them
//
// Pooled like this, the loss lets null experts share their tokens as they like; at balance a token takes k n / E networks.
// The paper counts f a token, so that it sums to k: its weight α is k times as large here, 0.02 at k = 3 is 0.06. Its
// anneal from one epoch to the next, 0.02 to 0.0001, is the setting late_balance. Without null experts it is top-k with a
// softmax over the selected. Where a trained mixture gets its null experts (smoe upcycle), a network and its null twin have
// equal logits at first, and of equals the network comes first. x [T, D] → expert, weight [T, K].
#include "smoe/moe/routers/class_balance.h"
#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/routers/linear_router.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kK, .trainable = true};

class AdamoeRouter : public LinearRouter {
 public:
  AdamoeRouter(const MoeConfig& config, int64_t width, const RandomStream& random)
      : LinearRouter(config, width, random),
        settings_(config.routers.adamoe),
        first_null_(config.networks()),
        nulls_(config.null_experts) {}

  Routing route(const RouteInput& input) override {
    const Logits logits = score(input.x);
    const Probabilities probabilities = softmax_over_all(logits);
    const Selection selection = select_top_k(logits.value, input.k, Ties::kLowerId);
    const Selection weighed = settings_.weigh_null ? selection : without(selection, first_null_, nulls_);
    Routing routing{.expert = selection.expert,
                    .weight = softmax_over_selected(weighed),
                    .logits = logits,
                    .probabilities = probabilities,
                    .state = {}};
    const double weight = input.progress < settings_.late_from ? settings_.balance : settings_.late_balance;
    if (input.training && weight > 0) {
      const Balance balance = balance_of(selection.expert, probabilities, input.batch.valid);
      routing.terms["adamoe.balance"] = {pooled(balance), weight};
    }
    return routing;
  }

  RouterTraits traits() const override { return kTraits; }
  bool wants_statistics() const override { return settings_.balance > 0 || settings_.late_balance > 0; }

 private:
  at::Tensor pooled(const Balance& balance) const {
    at::Tensor share = balance.share;
    if (nulls_ > 0) {
      share = share.clone();
      at::Tensor of_nulls = share.narrow(0, first_null_, nulls_);
      of_nulls.copy_(of_nulls.mean().expand_as(of_nulls));
    }
    return (share * balance.probability).sum() * static_cast<double>(share.numel());
  }

  AdamoeSettings settings_;
  int64_t first_null_, nulls_;  // their ids are those after the networks'
};

}  // namespace

RouterKind adamoe_kind() {
  return {.name = "adamoe",
          .summary = "top-k among networks and null experts: some tokens take fewer networks than others",
          .paper = "Zeng et al., EMNLP Findings 2024",
          .traits = kTraits,
          .published = {"moe.experts=16", "moe.null_experts=8", "k_schedule.kind=constant", "k_schedule.min=3",
                        "k_schedule.max=3"},
          .make = [](const MoeConfig& config, const RouterPlace& place, const RandomStream& random) {
            return std::make_shared<AdamoeRouter>(config, place.width, random);
          }};
}

}  // namespace smoe
