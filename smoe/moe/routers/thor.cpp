// thor: experts drawn at random (Zuo et al., "Taming Sparsely Activated Transformer with Stochastic Experts", ICLR 2022).
//
//   training      one expert, drawn uniformly for each layer and pass, takes the whole batch (or a sequence, or a token);
//                 weight 1
//   evaluation    the mean of m experts drawn for each token (or sequence, or the batch): 1/m each; m = E is the ensemble
//                 of all, without chance
//
// The dial is m, `samples`. The published code's draws for a "sentence" are for a time step of all sentences; here the unit
// is what its name says. Two passes that must agree are the objective `thor`. Knows nothing of x: [T, ·] → expert,
// weight [T, m].
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include "smoe/base/error.h"
#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {
    .dial = Dial::kSamples, .trainable = false, .random_at_evaluation = true, .scores = false};

class ThorRouter : public Router {
 public:
  explicit ThorRouter(const MoeConfig& config) : settings_(config.routers.thor), experts_(config.experts) {}

  Routing route(const RouteInput& input) override {
    const at::Tensor draw = input.random.at("experts").uniform_rows(unit_of(input), experts_);
    const at::Tensor expert = select_top_k(draw, input.training ? 1 : samples(input)).expert;
    return {.expert = expert, .weight = weigh_equally(expert, input.x), .logits = {}, .probabilities = {}, .state = {}};
  }

  RouterTraits traits() const override { return kTraits; }
  int64_t flops_per_token() const override { return 0; }

 private:
  /// Which draw each token takes, int64 [T].
  at::Tensor unit_of(const RouteInput& input) const {
    const std::string& unit = input.training ? settings_.unit : settings_.eval_unit;
    const int64_t tokens = input.x.size(0);
    const auto options = input.x.options().dtype(at::kLong).requires_grad(false);
    if (unit == "batch") return at::zeros({tokens}, options);
    if (unit == "token") return at::arange(tokens, options);
    require(input.batch.sequence.defined() && input.batch.sequence.numel() == tokens,
            "the router 'thor' draws by sequence and needs RouteInput.batch.sequence, [T = ", tokens, "]");
    return input.batch.sequence;
  }

  int64_t samples(const RouteInput& input) const {
    const double wanted = input.dial.value_or(static_cast<double>(settings_.samples));
    const auto whole = static_cast<int64_t>(wanted);
    require(static_cast<double>(whole) == wanted && whole >= 1 && whole <= experts_, "samples must be a whole number ",
            "between 1 and the number of experts, ", experts_, ", got ", wanted);
    return whole;
  }

  ThorSettings settings_;
  int64_t experts_;
};

void check(const MoeConfig& config) {
  require(config.routers.thor.samples <= config.experts, "moe.thor.samples = ", config.routers.thor.samples,
          " is larger than moe.experts = ", config.experts);
}

}  // namespace

RouterKind thor_kind() {
  return {
      .name = "thor",
      .summary = "experts drawn at random, one for a whole batch in training; the mean of some at evaluation (THOR)",
      .paper = "Zuo et al., ICLR 2022",
      .traits = kTraits,
      .published = {"objective.kind=thor"},
      .make = [](const MoeConfig& config, const RouterPlace&,
                 const RandomStream&) { return std::make_shared<ThorRouter>(config); },
      .check = check};
}

}  // namespace smoe
