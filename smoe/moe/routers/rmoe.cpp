// rmoe: a recurrent router, which remembers through depth how a token was routed below (Qiu et al., "Layerwise Recurrent
// Router for Mixture-of-Experts", ICLR 2025, §3).
//
//   x' = P x,  h = GRU(x', h'),  h' the state of the same token in the mixture below, 0 in the lowest;  z = G h
//   S = the k largest of z,  weight exp(z_e) / Σ_{j∈S} exp(z_j)
//   GRU: r = σ(W_r x' + U_r h'),  u = σ(W_u x' + U_u h'),  n = tanh(W_n x' + b + r ⊙ (U_n h' + c)),  h = (1 − u) n + u h'
//
// P [p, D] and G [E, p] are each layer's own, one GRU is shared by all and belongs to the model; p is `width`. The paper's
// eq. 3 has one matrix for input and state; as in every GRU they are two. The gradient goes through h', or not (`detach`).
// P and the GRU start as Normal(0, 1/inputs), b and c as 0. The recurrence is over depth alone, so that decoding keeps
// nothing for it. x [T, D], h' [T, p] → expert, weight [T, K], h [T, p] for the mixture above.
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "smoe/base/error.h"
#include "smoe/kernels/row_linear.h"
#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kK, .trainable = true, .state = true};

/// Normal(0, 1/columns) [rows, columns].
at::Tensor draw(int64_t rows, int64_t columns, const RandomStream& random) {
  return random.normal({rows, columns}, 0, 1 / std::sqrt(static_cast<double>(columns)));
}

/// σ(x), by a softmax over x and 0. LibTorch's sigmoid and tanh round elements that fill no whole vector in another way, so
/// that a token's bits would depend on how many there are; a row of a softmax depends on itself alone.
at::Tensor row_sigmoid(const at::Tensor& x) {
  return at::softmax(at::stack({x, at::zeros_like(x)}, -1), -1).select(-1, 0);
}

at::Tensor row_tanh(const at::Tensor& x) { return 2 * row_sigmoid(2 * x) - 1; }

/// The recurrence that all layers share; W and U hold the rows of r, u and n, one after the other.
class RouterGru : public torch::nn::Module {
 public:
  RouterGru(int64_t width, const RandomStream& random) : width_(width) {
    input_weight_ = register_parameter("input_weight", draw(3 * width, width, random.at("input_weight")));
    state_weight_ = register_parameter("state_weight", draw(3 * width, width, random.at("state_weight")));
    input_bias_ = register_parameter("input_bias", random.zeros({width}));
    state_bias_ = register_parameter("state_bias", random.zeros({width}));
  }

  /// input, state [T, p] → the new state; an undefined state is 0.
  at::Tensor forward(const at::Tensor& input, const at::Tensor& state) const {
    const at::Tensor h = state.defined() ? state : at::zeros(input.sizes(), input.options().requires_grad(false));
    const auto of_input = row_linear(input, input_weight_, {}).split(width_, 1);
    const auto of_state = row_linear(h, state_weight_, {}).split(width_, 1);
    const at::Tensor reset = row_sigmoid(of_input[0] + of_state[0]), update = row_sigmoid(of_input[1] + of_state[1]);
    const at::Tensor fresh = row_tanh(of_input[2] + input_bias_ + reset * (of_state[2] + state_bias_));
    return (1 - update) * fresh + update * h;
  }

 private:
  int64_t width_;
  at::Tensor input_weight_, state_weight_, input_bias_, state_bias_;
};

class RmoeRouter : public Router {
 public:
  RmoeRouter(const MoeConfig& config, const RouterPlace& place, const RandomStream& random)
      : settings_(config.routers.rmoe), is_lowest_(place.below == 0) {
    project_ = register_parameter("project", draw(settings_.width, place.width, random.at("project")));
    weight_ = register_parameter(
        "weight", random.at("weight").normal({config.experts, settings_.width}, 0, config.router_init_std));
    gru_ = std::dynamic_pointer_cast<RouterGru>(place.shared);
    if (gru_ == nullptr) {
      gru_ = register_module("gru", std::make_shared<RouterGru>(settings_.width, random.at("gru")));
    }
  }

  Routing route(const RouteInput& input) override {
    const at::Tensor state = gru_->forward(row_linear(input.x, project_, {}), state_below(input));
    const Logits logits = {row_linear(state, weight_, {})};
    const Selection selection = select_top_k(logits.value, input.k);
    return {.expert = selection.expert,
            .weight = softmax_over_selected(selection),
            .logits = logits,
            .probabilities = softmax_over_all(logits),
            .state = state};
  }

  RouterTraits traits() const override { return kTraits; }

  int64_t flops_per_token() const override {
    return 2 * (project_.numel() + weight_.numel() + 6 * settings_.width * settings_.width);
  }

 private:
  at::Tensor state_below(const RouteInput& input) const {
    if (is_lowest_) return {};
    require(input.state.defined() && input.state.sizes() == at::IntArrayRef({input.x.size(0), settings_.width}),
            "the router 'rmoe' needs the state of the mixture below, [", input.x.size(0), ", ", settings_.width,
            "]: RouteInput.state");
    return settings_.detach ? input.state.detach() : input.state;
  }

  RmoeSettings settings_;
  bool is_lowest_;
  at::Tensor project_, weight_;
  std::shared_ptr<RouterGru> gru_;
};

}  // namespace

RouterKind rmoe_kind() {
  return {.name = "rmoe",
          .summary = "top-k of what a GRU through depth makes of a token, one for all layers (RMoE)",
          .paper = "Qiu et al., ICLR 2025",
          .traits = kTraits,
          .published = {"k_schedule.kind=constant", "k_schedule.min=2", "k_schedule.max=2", "losses.balance=0.01"},
          .make = [](const MoeConfig& config, const RouterPlace& place,
                     const RandomStream& random) { return std::make_shared<RmoeRouter>(config, place, random); },
          .make_shared = [](const MoeConfig& config, int64_t,
                            const RandomStream& random) -> std::shared_ptr<torch::nn::Module> {
            return std::make_shared<RouterGru>(config.routers.rmoe.width, random);
          }};
}

}  // namespace smoe
