// top_p: as many experts as a token is unsure of (Huang et al., "Harder Tasks Need More Experts", ACL 2024).
//
//   p = softmax(W x),  S = the fewest experts, likeliest first, with Σ_{e∈S} p_e ≥ threshold,  weight p_e
//
// Weights are not renormalised, so a token's output grows with what its experts sum to. The dial is the threshold: 1 is
// the dense mixture. Without an entropy loss the router can flatten p to buy itself more experts. x [T, D] → expert,
// weight [T, K], K the most that a token takes.
#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/routers/linear_router.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kThreshold, .trainable = true};

class TopPRouter : public LinearRouter {
 public:
  TopPRouter(const MoeConfig& config, int64_t width, const RandomStream& random)
      : LinearRouter(config, width, random), settings_(config.routers.top_p) {}

  Routing route(const RouteInput& input) override {
    const Logits logits = score(input.x);
    const Probabilities probabilities = softmax_over_all(logits);
    const Selection selection = select_top_p(probabilities, input.dial.value_or(settings_.threshold));
    return {.expert = selection.expert,
            .weight = weigh_by_score(selection),
            .logits = logits,
            .probabilities = probabilities,
            .state = {}};
  }

  RouterTraits traits() const override { return kTraits; }

 private:
  TopPSettings settings_;
};

}  // namespace

RouterKind top_p_kind() {
  return {.name = "top_p",
          .summary = "the likeliest experts until their probabilities reach a threshold; weights not renormalised",
          .paper = "Huang et al., ACL 2024",
          .traits = kTraits,
          .published = {"losses.balance=0.01", "losses.entropy=0.0001"},
          .make = [](const MoeConfig& config, const RouterPlace& place, const RandomStream& random) {
            return std::make_shared<TopPRouter>(config, place.width, random);
          }};
}

}  // namespace smoe
