// random_frozen: the router of SMoE-Dropout (Chen et al., "Sparse MoE as the New Dropout", ICLR 2023, §3).
//
//   g(x) = W x + b                      W [E, D] ~ Normal(0, std²), b [E] = 0, both drawn once and never updated
//   S(x) = the k largest entries of g(x)
//   w_e  = exp(g_e) / Σ_{j∈S} exp(g_j)  for e ∈ S: top-k first, softmax over the selected only
//
// The parameters are frozen, but the gradient flows through w into x: routing changes in training because its input
// does. x [T, D] → expert, weight [T, K].
#include "smoe/kernels/row_linear.h"
#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kK, .trainable = false};

class RandomFrozenRouter : public Router {
 public:
  RandomFrozenRouter(const MoeConfig& config, int64_t width, const RandomStream& random) {
    const at::Tensor weight = random.at("weight").normal({config.experts, width}, 0, config.router_init_std);
    weight_ = register_parameter("weight", weight, /*requires_grad=*/false);
    bias_ = register_parameter("bias", random.zeros({config.experts}), /*requires_grad=*/false);
  }

  Routing route(const RouteInput& input) override {
    const at::Tensor logits = row_linear(input.x, weight_, bias_);
    const Selection selection = select_top_k(logits, input.k);
    return {.expert = selection.expert,
            .weight = softmax_over_selected(selection),
            .logits = {logits},
            .probabilities = softmax_over_all({logits}),
            .state = {}};
  }

  RouterTraits traits() const override { return kTraits; }
  int64_t flops_per_token() const override { return 2 * weight_.numel(); }

 private:
  at::Tensor weight_, bias_;
};

}  // namespace

RouterKind random_frozen_kind() {
  return {.name = "random_frozen",
          .summary = "random weights, frozen from the start; softmax over the k selected (SMoE-Dropout)",
          .paper = "Chen et al., ICLR 2023",
          .traits = kTraits,
          .make = [](const MoeConfig& config, const RouterPlace& place, const RandomStream& random) {
            return std::make_shared<RandomFrozenRouter>(config, place.width, random);
          }};
}

}  // namespace smoe
