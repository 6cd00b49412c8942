// comet: at most R experts a token by R trees with an expert at each leaf, differentiable throughout (Ibrahim et al.,
// "COMET", KDD 2023).
//
//   split i of tree r   s = S(W_ri x + b_ri), S the smooth-step of width γ; v_rj the probability of leaf j: Π s or 1 − s
//   leaf j              a = A_rj x + c_rj;  g~ = softmax of a + log v over all leaves of all trees, exactly 0 where v = 0
//   g = Σ_r g~_r Π_r,  S = {e: g_e > 0},  weight g_e
//   losses              saturation · mean over tokens of Σ_rj −v log(v + 1e-6)
//                       permutation_entropy · mean over permutations of Σ_je −Π log(Π + 1e-6), while they are soft
//
// Once all splits are saturated a tree has one leaf; before, a token takes up to all experts. Π_r is 1 (COMET), or learned
// (COMET+): in training Sinkhorn((P_r + noise · Gumbel)/τ) up to `permutation_until`, τ falling evenly in its logarithm and
// 20 to 150 rounds; after that, and at evaluation, the permutation with the largest Σ P. P is a parameter, which gets no
// gradient once the permutation is hard, so that it stays. x [T, D] → expert, weight [T, K], K the most that a token takes.
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "smoe/kernels/row_linear.h"
#include "smoe/moe/routers/gumbel.h"
#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/routers/permutation.h"
#include "smoe/moe/routers/smooth_tree.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kNone, .trainable = true};
constexpr double kLeast = 1e-30;    // a probability below this is 0, so that 1 over it is a number
constexpr double kNothing = -1e30;  // the logit of such an expert
constexpr double kFewRounds = 20, kManyRounds = 150;

at::Tensor spread(const at::Tensor& p) { return -(p * (p + 1e-6).log()); }

class CometRouter : public Router {
 public:
  CometRouter(const MoeConfig& config, int64_t width, const RandomStream& random)
      : settings_(config.routers.comet), trees_(settings_.trees), leaves_(config.experts) {
    // As spread out as numbers uniform in ±γ/100.
    const double deviation = settings_.gamma / 100 / std::sqrt(3.0);
    const int64_t splits = trees_ * (leaves_ - 1);
    if (splits > 0) {
      split_weight_ =
          register_parameter("split_weight", random.at("split_weight").normal({splits, width}, 0, deviation));
      split_bias_ = register_parameter("split_bias", random.at("split_bias").normal({splits}, 0, deviation));
    }
    leaf_weight_ = register_parameter(
        "leaf_weight", random.at("leaf_weight").normal({trees_ * leaves_, width}, 0, config.router_init_std));
    leaf_bias_ = register_parameter("leaf_bias", random.zeros({trees_ * leaves_}));
    if (settings_.permutation != "none") {
      const int64_t count = settings_.permutation == "shared" ? 1 : trees_;
      permutation_ = register_parameter(
          "permutation", random.at("permutation").normal({count, leaves_, leaves_}, 0, config.router_init_std));
    }
  }

  Routing route(const RouteInput& input) override {
    const at::Tensor reached = reach(input.x);
    const Gate by_leaf = gate(input.x, reached);
    const bool soft = permutation_.defined() && input.training && input.progress < settings_.permutation_until;
    const at::Tensor permutation = soft ? soft_permutation(input) : at::Tensor();
    const Probabilities by_expert = {permuted(by_leaf.share, permutation)};
    const at::Tensor none = by_expert.value.le(kLeast);
    const Logits logits = {(by_expert.value.clamp_min(kLeast).log() + by_leaf.logsumexp).masked_fill(none, kNothing)};
    const Selection selection = select_above(by_expert.value, 0);
    Routing routing{.expert = selection.expert,
                    .weight = weigh_by_score(selection),
                    .logits = logits,
                    .probabilities = by_expert,
                    .state = {}};
    if (input.training) add_terms(routing, reached, input.batch.valid, permutation);
    return routing;
  }

  RouterTraits traits() const override { return kTraits; }
  bool wants_statistics() const override {
    return settings_.saturation > 0 || (permutation_.defined() && settings_.permutation_entropy > 0);
  }

  int64_t flops_per_token() const override {
    return 2 * (leaf_weight_.numel() + (split_weight_.defined() ? split_weight_.numel() : 0));
  }

 private:
  /// How the leaves [T, R, E] share a token, and the logsumexp [T, 1] of their logits a + log v.
  struct Gate {
    at::Tensor share, logsumexp;
  };

  /// The probability of each leaf, [T, R, E].
  at::Tensor reach(const at::Tensor& x) const {
    const int64_t T = x.size(0);
    if (!split_weight_.defined())
      return leaf_probabilities(at::empty({T, trees_, 0}, x.options().requires_grad(false)));
    const at::Tensor splits = row_linear(x, split_weight_, split_bias_).view({T, trees_, leaves_ - 1});
    return leaf_probabilities(smooth_step(splits, settings_.gamma));
  }

  Gate gate(const at::Tensor& x, const at::Tensor& reached) const {
    const at::Tensor v = reached.flatten(1);
    // A softmax over the leaves that are reached, times v, over the sum: without a logarithm of v, whose gradient is
    // larger than any number where v is smaller than all others.
    const at::Tensor score =
        row_linear(x, leaf_weight_, leaf_bias_).masked_fill(v.le(kLeast), -std::numeric_limits<double>::infinity());
    const at::Tensor weighted = at::softmax(score, -1) * v, sum = weighted.sum(-1, /*keepdim=*/true);
    return {(weighted / sum).view(reached.sizes()), sum.log() + at::logsumexp(score, -1, /*keepdim=*/true)};
  }

  /// Shares of leaves [T, R, E] → of experts [T, E]; `soft` [R or 1, E, E], undefined where the permutation is hard.
  at::Tensor permuted(const at::Tensor& share, const at::Tensor& soft) {
    if (!permutation_.defined()) return share.sum(1);
    if (!soft.defined()) {
      const at::Tensor leaf = leaf_of_expert().expand({trees_, leaves_}).unsqueeze(0);
      return share.gather(2, leaf.expand({share.size(0), trees_, leaves_})).sum(1);
    }
    const at::Tensor by_tree = soft.to(share.scalar_type()).expand({trees_, leaves_, leaves_});
    const at::Tensor mixed = row_linear(share.flatten(1), by_tree.flatten(0, 1).t().contiguous(), {});
    return mixed / mixed.sum(-1, /*keepdim=*/true);
  }

  /// [R or 1, E, E] in fp64: at the published temperatures exponents are past what fp32 tells apart.
  at::Tensor soft_permutation(const RouteInput& input) const {
    const double part = std::clamp(input.progress / settings_.permutation_until, 0.0, 1.0);
    const double temperature =
        settings_.max_temperature * std::pow(settings_.min_temperature / settings_.max_temperature, part);
    at::Tensor logits = permutation_.to(at::kDouble);
    if (settings_.noise > 0) {
      const at::Tensor noise = gumbel_like(logits.detach().flatten(0, 1), input.random.at("permutation"));
      logits = logits + settings_.noise * noise.view(logits.sizes());
    }
    return sinkhorn(logits / temperature, std::lround(kFewRounds + part * (kManyRounds - kFewRounds)));
  }

  /// The hard permutations the other way round: the leaf at which each expert is, int64 [R or 1, E].
  const at::Tensor& leaf_of_expert() {
    const at::Tensor now = permutation_.detach();
    if (leaf_of_expert_.defined() && now.device() == assigned_.device() && now.equal(assigned_)) return leaf_of_expert_;
    std::vector<int64_t> leaf(static_cast<size_t>(now.size(0) * leaves_));
    for (int64_t r = 0; r < now.size(0); ++r) {
      const std::vector<int64_t> expert = best_assignment(now[r]);
      for (int64_t j = 0; j < leaves_; ++j) {
        leaf[static_cast<size_t>(r * leaves_ + expert[static_cast<size_t>(j)])] = j;
      }
    }
    leaf_of_expert_ = at::tensor(leaf, now.options().dtype(at::kLong)).view({now.size(0), leaves_});
    assigned_ = now.clone();
    return leaf_of_expert_;
  }

  void add_terms(Routing& routing, const at::Tensor& reached, const at::Tensor& valid,
                 const at::Tensor& permutation) const {
    if (settings_.saturation > 0) {
      at::Tensor of_token = spread(reached).flatten(1).sum(-1);
      if (valid.defined()) of_token = of_token.masked_fill(valid.logical_not(), 0);
      const auto tokens = valid.defined() ? valid.sum().item<int64_t>() : of_token.size(0);
      routing.terms["comet.saturation"] = {of_token.sum() / static_cast<double>(std::max<int64_t>(1, tokens)),
                                           settings_.saturation};
    }
    if (permutation.defined() && settings_.permutation_entropy > 0) {
      const at::Tensor entropy = spread(permutation).sum() / static_cast<double>(permutation.size(0));
      routing.terms["comet.permutation"] = {entropy.to(reached.scalar_type()), settings_.permutation_entropy};
    }
  }

  CometSettings settings_;
  int64_t trees_, leaves_;
  at::Tensor split_weight_, split_bias_, leaf_weight_, leaf_bias_;  // no splits where there is one expert
  at::Tensor permutation_;                                          // undefined for COMET
  at::Tensor leaf_of_expert_, assigned_;                            // of the values `assigned_` of permutation_
};

void check(const MoeConfig& config) {
  const CometSettings& settings = config.routers.comet;
  check_cooling("comet", settings.max_temperature, settings.min_temperature);
}

}  // namespace

RouterKind comet_kind() {
  return {.name = "comet",
          .summary = "at most as many experts as there are trees, whose splits harden; a learned order (COMET, COMET+)",
          .paper = "Ibrahim et al., KDD 2023",
          .traits = kTraits,
          .published = {"moe.comet.permutation=shared", "moe.comet.gamma=10"},
          .make = [](const MoeConfig& config, const RouterPlace& place,
                     const RandomStream& random) { return std::make_shared<CometRouter>(config, place.width, random); },
          .check = check};
}

}  // namespace smoe
