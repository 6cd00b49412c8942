// switch: the router of the Switch Transformer (Fedus et al., JMLR 2022, §2).
//
//   p = softmax(W x),  e = argmax p,  weight p_e: one expert a token, weighed by its probability among all
//
// In training x is multiplied by noise first (app. C). Tokens over an expert's capacity ride the residual; capacity and
// balance loss are settings of every router. x [T, D] → expert, weight [T, 1].
#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/routers/linear_router.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kNone, .trainable = true};

class SwitchRouter : public LinearRouter {
 public:
  SwitchRouter(const MoeConfig& config, int64_t width, const RandomStream& random)
      : LinearRouter(config, width, random), settings_(config.routers.switch_transformer) {}

  Routing route(const RouteInput& input) override {
    const Logits logits = score(jittered(input, settings_.jitter));
    const Probabilities probabilities = softmax_over_all(logits);
    const Selection selection = select_top_k(probabilities.value, 1);
    return {.expert = selection.expert,
            .weight = weigh_by_score(selection),
            .logits = logits,
            .probabilities = probabilities,
            .state = {}};
  }

  RouterTraits traits() const override { return kTraits; }

 private:
  SwitchSettings settings_;
};

}  // namespace

RouterKind switch_kind() {
  return {.name = "switch",
          .summary = "the one likeliest expert, weighed by its probability (Switch Transformer)",
          .paper = "Fedus et al., JMLR 2022",
          .traits = kTraits,
          .published = {"moe.capacity_factor=1.25", "moe.eval_capacity_factor=2", "losses.balance=0.01"},
          .make = [](const MoeConfig& config, const RouterPlace& place, const RandomStream& random) {
            return std::make_shared<SwitchRouter>(config, place.width, random);
          }};
}

}  // namespace smoe
