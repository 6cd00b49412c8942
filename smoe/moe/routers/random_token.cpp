// random_token: k experts drawn anew for every token of every call, at evaluation too (the random gate of the published
// code of Chen et al., ICLR 2023; not to be confused with random_frozen, which is the method).
//
//   u ~ Uniform[0, 1)^E,  S = the k largest of u,  weight 1/k, or softmax over the selected u as the published code has it
//
// Knows nothing of x. Row t draws from the stream of the call and t alone, so that rows appended to a batch leave those
// before them as they are. x [T, ·] → expert, weight [T, K].
#include <ATen/ops/arange.h>

#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kK, .trainable = false, .random_at_evaluation = true, .scores = false};

class RandomTokenRouter : public Router {
 public:
  explicit RandomTokenRouter(const MoeConfig& config)
      : settings_(config.routers.random_token), experts_(config.experts) {}

  Routing route(const RouteInput& input) override {
    const at::Tensor rows = at::arange(input.x.size(0), input.x.options().dtype(at::kLong).requires_grad(false));
    const at::Tensor draw = input.random.at("experts").uniform_rows(rows, experts_).to(input.x.scalar_type());
    const Selection selection = select_top_k(draw, input.k);
    return {.expert = selection.expert,
            .weight = settings_.weight == "equal" ? weigh_equally(selection.expert, input.x)
                                                  : softmax_over_selected(selection),
            .logits = {},
            .probabilities = {},
            .state = {}};
  }

  RouterTraits traits() const override { return kTraits; }
  int64_t flops_per_token() const override { return 0; }

 private:
  RandomTokenSettings settings_;
  int64_t experts_;
};

}  // namespace

RouterKind random_token_kind() {
  return {.name = "random_token",
          .summary = "k experts drawn anew for every token of every call, at evaluation too",
          .paper = "Chen et al., ICLR 2023 (published code)",
          .traits = kTraits,
          .make = [](const MoeConfig& config, const RouterPlace&, const RandomStream&) {
            return std::make_shared<RandomTokenRouter>(config);
          }};
}

}  // namespace smoe
