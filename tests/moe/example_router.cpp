// cycle: the experts after one another, the next token beginning one further. k experts, 1/k each.
//
//   S = {p, p + 1, …, p + k − 1} mod E, p the token's position.  positions [T] → expert, weight [T, K]
#include <ATen/ops/arange.h>

#include "smoe/base/error.h"
#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kK, .trainable = false, .scores = false};

class CycleRouter : public Router {
 public:
  explicit CycleRouter(const MoeConfig& config) : experts_(config.experts) {}

  Routing route(const RouteInput& input) override {
    const at::Tensor& position = input.batch.position;
    require(position.defined(), "the router 'cycle' needs the positions of the tokens: RouteInput.batch.position");
    const at::Tensor id = at::arange(experts_, position.options());
    const at::Tensor steps = (id - position.unsqueeze(1)).remainder(experts_);  // [T, E] from p on to each expert
    const at::Tensor expert = select_top_k(-steps, input.k).expert;
    return {.expert = expert, .weight = weigh_equally(expert, input.x), .logits = {}, .probabilities = {}, .state = {}};
  }

  RouterTraits traits() const override { return kTraits; }
  int64_t flops_per_token() const override { return 0; }

 private:
  int64_t experts_;
};

}  // namespace

RouterKind cycle_kind() {
  return {.name = "cycle",
          .summary = "the experts after one another, by position",
          .paper = "CONTRIBUTING.md",
          .traits = kTraits,
          .make = [](const MoeConfig& config, const RouterPlace&, const RandomStream&) {
            return std::make_shared<CycleRouter>(config);
          }};
}

}  // namespace smoe
