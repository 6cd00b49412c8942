// learned: a trained top-k router, in the forms that its papers give it. x [T, D] → expert, weight [T, K]; z = W x.
//
//   score              chosen by        weight of a chosen expert
//   selected_softmax   z                exp(z_e) / Σ_{j∈S} exp(z_j): top-k first     (the SMoE of Chen et al., ICLR 2023)
//   softmax            softmax(z)       softmax(z)_e: softmax first                  (Shazeer et al. 2017 without noise;
//                                                                                     Dai et al. 2024, DeepSeekMoE)
//   sigmoid            σ(z)             σ(z_e)                                       (DeepSeek-V3, 2024, eq. 15)
//
// Divided by their sum over S where weights are renormalised. With a bias rate u, experts are chosen by score + b and
// weighed without b; after each update b_e += u · sign(mean count − count_e) (Wang et al. 2024, algorithm 1).
#include <ATen/ops/sigmoid.h>

#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/routers/linear_router.h"
#include "smoe/moe/select.h"
#include "smoe/moe/stats_book.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kK, .trainable = true};

class LearnedRouter : public LinearRouter {
 public:
  LearnedRouter(const MoeConfig& config, int64_t width, const RandomStream& random)
      : LinearRouter(config, width, random), settings_(config.routers.learned) {
    if (settings_.bias_rate > 0) {
      bias_ = register_parameter("selection_bias", random.zeros({config.experts}), /*requires_grad=*/false);
    }
  }

  Routing route(const RouteInput& input) override {
    const Logits logits = score(jittered(input, settings_.jitter));
    const bool sigmoid = settings_.score == "sigmoid";
    // A sigmoid's scores do not sum to one; their shares do, and are what a balance loss is made of.
    const at::Tensor affinity = sigmoid ? at::sigmoid(logits.value) : at::Tensor();
    const Probabilities probabilities =
        sigmoid ? Probabilities{affinity / affinity.sum(-1, /*keepdim=*/true)} : softmax_over_all(logits);
    const at::Tensor scores = sigmoid ? affinity : settings_.score == "softmax" ? probabilities.value : logits.value;
    const Selection selection = select(scores, input.k);
    return {.expert = selection.expert,
            .weight = weigh(selection),
            .logits = logits,
            .probabilities = probabilities,
            .state = {}};
  }

  RouterTraits traits() const override { return kTraits; }

  bool wants_statistics() const override { return bias_.defined(); }

  void after_update(const LayerStats& stats) override {
    if (!bias_.defined()) return;
    const at::Tensor step = (stats.count.mean() - stats.count).sign() * settings_.bias_rate;
    bias_.set_data(bias_ + step.to(bias_.options()));
  }

 private:
  Selection select(const at::Tensor& scores, const ActiveK& k) const {
    if (!bias_.defined()) return select_top_k(scores, k);
    return with_scores(select_top_k(scores.detach() + bias_, k).expert, scores);
  }

  at::Tensor weigh(const Selection& selection) const {
    if (settings_.score == "selected_softmax") return softmax_over_selected(selection);
    return settings_.renormalize ? weigh_by_share(selection) : weigh_by_score(selection);
  }

  LearnedSettings settings_;
  at::Tensor bias_;  // [E], undefined without a bias rate
};

}  // namespace

RouterKind learned_kind() {
  return {.name = "learned",
          .summary = "trained top-k: softmax before or after the selection, or sigmoid; bias balancing",
          .paper = "Shazeer et al., ICLR 2017; Dai et al., ACL 2024; DeepSeek-V3, 2024",
          .traits = kTraits,
          .make = [](const MoeConfig& config, const RouterPlace& place, const RandomStream& random) {
            return std::make_shared<LearnedRouter>(config, place.width, random);
          }};
}

}  // namespace smoe
