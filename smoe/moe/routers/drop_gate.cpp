// drop_gate: a trained top-k router whose logits are dropped out in training (the drop gate of the published code of Chen
// et al., ICLR 2023).
//
//   training      z' = W x with each logit 0 at probability `rate`, otherwise divided by 1 − rate;  S = the k largest of z'
//   evaluation    z' = W x
//   weight        exp(z'_e) / Σ_{j∈S} exp(z'_j)
//
// A dropped expert is not out of the choice: its logit of 0 is larger than a negative one. Experts at the same 0 are taken
// in an order drawn for each token, so that none is preferred by its number. Losses see W x, of which nothing is dropped.
// x [T, D] → expert, weight [T, K].
#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/zeros_like.h>

#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/routers/linear_router.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kK, .trainable = true};

class DropGateRouter : public LinearRouter {
 public:
  DropGateRouter(const MoeConfig& config, int64_t width, const RandomStream& random)
      : LinearRouter(config, width, random), settings_(config.routers.drop_gate) {}

  Routing route(const RouteInput& input) override {
    const Logits logits = score(input.x);
    const Selection selection = input.training ? select_dropped(logits, input) : select_top_k(logits.value, input.k);
    return {.expert = selection.expert,
            .weight = softmax_over_selected(selection),
            .logits = logits,
            .probabilities = softmax_over_all(logits),
            .state = {}};
  }

  RouterTraits traits() const override { return kTraits; }

 private:
  Selection select_dropped(const Logits& logits, const RouteInput& input) const {
    const at::Tensor rows = at::arange(input.x.size(0), input.x.options().dtype(at::kLong).requires_grad(false));
    const at::Tensor draw = input.random.at("drop").uniform_rows(rows, logits.value.size(1));
    const at::Tensor dropped = (logits.value / (1 - settings_.rate)).masked_fill(draw.lt(settings_.rate), 0);
    return with_scores(select_top_k(ranks(dropped.detach(), draw), input.k).expert, dropped);
  }

  /// The places of each row's scores from its smallest, 0, to its largest, equal ones by `ties`; both [T, E].
  static at::Tensor ranks(const at::Tensor& scores, const at::Tensor& ties) {
    const at::Tensor by_ties = at::argsort(ties, /*stable=*/true, /*dim=*/-1);
    const at::Tensor by_score = at::argsort(scores.gather(1, by_ties), /*stable=*/true, /*dim=*/-1);
    const at::Tensor place = at::arange(scores.size(1), scores.options()).expand_as(scores);
    return at::zeros_like(scores).scatter(1, by_ties.gather(1, by_score), place);
  }

  DropGateSettings settings_;
};

}  // namespace

RouterKind drop_gate_kind() {
  return {.name = "drop_gate",
          .summary = "trained top-k whose logits are dropped out in training; softmax over the selected",
          .paper = "Chen et al., ICLR 2023 (published code)",
          .traits = kTraits,
          .make = [](const MoeConfig& config, const RouterPlace& place, const RandomStream& random) {
            return std::make_shared<DropGateRouter>(config, place.width, random);
          }};
}

}  // namespace smoe
