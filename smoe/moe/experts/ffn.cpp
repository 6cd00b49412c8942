// ffn: experts with two matrices, E(x) = W2 · drop(act(W1 x + b1)) + b2.
// W1 [E, H, D], b1 [E, H], W2 [E, D, H], b2 [E, D]; W ~ Normal(0, std²), b = 0. With a gated activation W1 is [E, 2 H, D],
// gate rows first, and b1 [E, 2 H].
#include "smoe/kernels/moe_mlp.h"
#include "smoe/moe/experts/kinds.h"

namespace smoe {
namespace {

class FfnExperts : public ExpertGroup {
 public:
  FfnExperts(const MoeConfig& config, int64_t count, int64_t width, double init_std, const RandomStream& random)
      : activation_(parse_activation(config.activation)) {
    const int64_t hidden = config.expert_width, rows = is_gated(activation_) ? 2 * hidden : hidden;
    weights_.w1 = register_parameter("w1", random.at("w1").normal({count, rows, width}, 0, init_std));
    weights_.b1 = register_parameter("b1", random.zeros({count, rows}));
    weights_.w2 = register_parameter("w2", random.at("w2").normal({count, width, hidden}, 0, init_std));
    weights_.b2 = register_parameter("b2", random.zeros({count, width}));
  }

  int64_t size() const override { return weights_.w1.size(0); }

  at::Tensor mix(const at::Tensor& x, const at::Tensor& expert, const at::Tensor& weight,
                 const MixOptions& options) override {
    const at::Tensor operand = to_compute(x, options.precision);
    return moe_mlp(operand, expert, weight, weights_, activation_, options.dropout, options.dropout_key)
        .to(x.scalar_type());
  }

  int64_t flops_per_row() const override { return 2 * (weights_.w1.numel() + weights_.w2.numel()) / size(); }

  int64_t parameters_per_expert() const override {
    return (weights_.w1.numel() + weights_.b1.numel() + weights_.w2.numel() + weights_.b2.numel()) / size();
  }

  PassMemory pass_memory(int64_t tokens, double slots, Precision precision, bool training) const override {
    return moe_mlp_memory(weights_, tokens, slots, activation_, compute_type(weights_.w1.scalar_type(), precision),
                          training);
  }

 private:
  MlpWeights weights_;
  Activation activation_;
};

}  // namespace

ExpertKind ffn_experts_kind() {
  return {
      .name = "ffn",
      .summary = "two matrices with an activation between them",
      .make = [](const MoeConfig& config, int64_t count, int64_t width, double init_std, const RandomStream& random) {
        return std::make_shared<FfnExperts>(config, count, width, init_std, random);
      }};
}

}  // namespace smoe
