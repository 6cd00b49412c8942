// post_moe: top-k in which, in training, a token's own language has its expert (Zheng et al., "Efficiently Democratizing
// Medical LLMs for 50 Languages via a Mixture of Language Family Experts", ICLR 2025, hybrid routing).
//
//   p = softmax(W x),  S = the k largest of p
//   in training, where the expert e of the token's language is not in S: e takes the place of the last in S
//   weight p_e / Σ_{j∈S} p_j, or without renormalising p_e
//
// The number of a language's family is that of its expert; it comes as the tag kFamilyTag, −1 where a token has none. At
// evaluation no language is asked for, so that routing is plain top-k. The paper does not renormalise: then k copies of a
// dense block answer with about k/E of it, while renormalised they answer as it does. Its other form, one language's expert
// alone beside a shared one behind a sigmoid, is not here: shared experts have no gate. x [T, D] → expert, weight [T, K].
#include <ATen/ops/arange.h>
#include <ATen/ops/where.h>

#include "smoe/base/error.h"
#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/routers/linear_router.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kK, .trainable = true, .families = true};

/// expert int32 [T, K] in falling order of score, with the expert `own` int64 [T] of each token in the last place that is
/// taken where it is in none; −1 asks for nothing, and a token without experts stays so.
at::Tensor with_own(const at::Tensor& expert, const at::Tensor& own) {
  const at::Tensor wanted = own.to(at::kInt).unsqueeze(1);  // [T, 1]
  const at::Tensor missing = wanted.ge(0).logical_and(expert.eq(wanted).any(-1, /*keepdim=*/true).logical_not());
  const at::Tensor last = expert.ge(0).sum(-1, /*keepdim=*/true) - 1;
  const at::Tensor slot = at::arange(expert.size(1), last.options());
  return at::where(missing.logical_and(slot.eq(last)), wanted, expert);
}

class PostMoeRouter : public LinearRouter {
 public:
  PostMoeRouter(const MoeConfig& config, int64_t width, const RandomStream& random)
      : LinearRouter(config, width, random), settings_(config.routers.post_moe) {}

  Routing route(const RouteInput& input) override {
    const Logits logits = score(input.x);
    const Probabilities probabilities = softmax_over_all(logits);
    Selection selection = select_top_k(probabilities.value, input.k);
    const auto families = input.batch.tags.find(kFamilyTag);
    if (input.training && families != input.batch.tags.end()) {
      check_families(families->second, input.x.size(0));
      selection = with_scores(with_own(selection.expert, families->second), probabilities.value);
    }
    return {.expert = selection.expert,
            .weight = settings_.renormalize ? weigh_by_share(selection) : weigh_by_score(selection),
            .logits = logits,
            .probabilities = probabilities,
            .state = {}};
  }

  RouterTraits traits() const override { return kTraits; }

 private:
  void check_families(const at::Tensor& families, int64_t tokens) const {
    const int64_t experts = weight_.size(0);
    require(families.sizes() == at::IntArrayRef({tokens}), "the tag '", kFamilyTag, "' must be [T = ", tokens,
            "], got ", families.sizes());
    require(tokens == 0 || families.max().item<int64_t>() < experts, "the tag '", kFamilyTag, "' names an expert past ",
            experts - 1, ", the last of ", experts);
  }

  PostMoeSettings settings_;
};

}  // namespace

RouterKind post_moe_kind() {
  return {.name = "post_moe",
          .summary = "top-k with the expert of the token's language among them in training (Post-MoE, Apollo-MoE)",
          .paper = "Zheng et al., ICLR 2025",
          .traits = kTraits,
          .published = {"moe.post_moe.renormalize=false", "k_schedule.kind=constant", "k_schedule.min=2",
                        "k_schedule.max=2"},
          .make = [](const MoeConfig& config, const RouterPlace& place, const RandomStream& random) {
            return std::make_shared<PostMoeRouter>(config, place.width, random);
          }};
}

}  // namespace smoe
