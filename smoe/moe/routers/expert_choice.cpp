// expert_choice: experts choose tokens (Zhou et al., NeurIPS 2022, §3.2).
//
//   S = softmax(W x) over the experts, [T, E];  expert i takes the C tokens with the largest S_·i, weight S_ti
//   C = ⌈T c / E⌉, T the valid tokens, c the mean number of experts a token
//
// Load is even by construction, so there is neither a balance loss nor a capacity beside it; a token may be taken by every
// expert or by none. The dial is c; at c = E every expert takes every token. What a token gets depends on all tokens of the
// batch, later ones included: not for models that predict the next token, whose loss then knows what it should not.
// x [T, D] → expert, weight [T, E], slot i expert i or empty.
#include <ATen/ops/arange.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <limits>

#include "smoe/base/error.h"
#include "smoe/moe/limit.h"
#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/routers/linear_router.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {
    .dial = Dial::kCapacity, .trainable = true, .causal = false, .batch_independent = false};

class ExpertChoiceRouter : public LinearRouter {
 public:
  ExpertChoiceRouter(const MoeConfig& config, int64_t width, const RandomStream& random)
      : LinearRouter(config, width, random), settings_(config.routers.expert_choice) {}

  Routing route(const RouteInput& input) override {
    const Logits logits = score(input.x);
    const Probabilities probabilities = softmax_over_all(logits);
    const at::Tensor taken = taken_tokens(probabilities.value.detach(), input);
    const at::Tensor id = at::arange(taken.size(1), taken.options().dtype(at::kInt)).expand_as(taken);
    const at::Tensor expert = id.masked_fill(taken.logical_not(), -1);
    return {.expert = expert,
            .weight = weigh_by_score({expert, probabilities.value}),
            .logits = logits,
            .probabilities = probabilities,
            .state = {}};
  }

  RouterTraits traits() const override { return kTraits; }

 private:
  /// bool [T, E]: whether expert e takes token t.
  at::Tensor taken_tokens(const at::Tensor& p, const RouteInput& input) const {
    const int64_t experts = p.size(1);
    const double capacity = input.dial.value_or(settings_.capacity);
    require(capacity > 0 && capacity <= static_cast<double>(experts), "the capacity of expert choice must be above 0 ",
            "and at most the number of experts, ", experts, ", got ", capacity);
    const at::Tensor& valid = input.batch.valid;
    const int64_t tokens = valid.defined() ? valid.sum().item<int64_t>() : p.size(0);
    const int64_t count = std::min(tokens, capacity_of(capacity, tokens, 1, experts));
    const double never = -std::numeric_limits<double>::infinity();
    const at::Tensor score = valid.defined() ? p.masked_fill(valid.logical_not().unsqueeze(1), never) : p;
    const at::Tensor chosen = std::get<1>(at::topk(score, count, /*dim=*/0));  // [C, E]
    return at::zeros_like(p, at::kBool).scatter(0, chosen, true);
  }

  ExpertChoiceSettings settings_;
};

void check(const MoeConfig& config) {
  const double capacity = config.routers.expert_choice.capacity;
  require(capacity <= static_cast<double>(config.experts), "moe.expert_choice.capacity = ", capacity,
          " is larger than moe.experts = ", config.experts, ": an expert takes each token at most once");
  require(
      config.capacity_factor == 0, "moe.capacity_factor = ", config.capacity_factor,
      " does not go with moe.router = \"expert_choice\", whose experts take an even share by themselves; set it to 0");
}

}  // namespace

RouterKind expert_choice_kind() {
  return {.name = "expert_choice",
          .summary = "experts choose their tokens: even load, any number of experts a token; sees later tokens",
          .paper = "Zhou et al., NeurIPS 2022",
          .traits = kTraits,
          .make =
              [](const MoeConfig& config, const RouterPlace& place, const RandomStream& random) {
                return std::make_shared<ExpertChoiceRouter>(config, place.width, random);
              },
          .check = check};
}

}  // namespace smoe
