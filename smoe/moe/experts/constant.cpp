// constant: experts that answer a mean of their input and a vector of their own (Jin et al., "MoE++", ICLR 2025).
//
//   E(x) = a1 x + a2 v,  [a1, a2] = softmax(W x),  W [E, 2, D] ~ Normal(0, std²),  v [E, D] ~ Normal(0, 1)
//
// W x is a router's kind of score, and like a router's it is computed in the dtype of x, whatever products are made in. All
// tokens are scored, which is cheaper than to sort out those that ask.
#include <ATen/ops/softmax.h>

#include "smoe/kernels/row_linear.h"
#include "smoe/moe/experts/kinds.h"
#include "smoe/moe/experts/slot_weights.h"

namespace smoe {
namespace {

class ConstantExperts : public ExpertGroup {
 public:
  ConstantExperts(int64_t count, int64_t width, double init_std, const RandomStream& random) {
    score_ = register_parameter("score", random.at("score").normal({count, 2, width}, 0, init_std));
    value_ = register_parameter("value", random.at("value").normal({count, width}, 0, 1));
  }

  int64_t size() const override { return value_.size(0); }
  bool is_network() const override { return false; }

  at::Tensor mix(const at::Tensor& x, const at::Tensor& expert, const at::Tensor& weight, const MixOptions&) override {
    const std::vector<at::Tensor> of_expert = weights_by_expert(expert, weight, size());
    const at::Tensor scores = row_linear(x, score_.view({2 * size(), -1}), {});
    const at::Tensor parts = at::softmax(scores.view({x.size(0), size(), 2}), -1);
    at::Tensor sum;
    for (int64_t e = 0; e < size(); ++e) {
      const at::Tensor own = of_expert[static_cast<size_t>(e)] * parts.select(1, e);  // [T, 2]
      const at::Tensor y = own.narrow(1, 0, 1) * x + own.narrow(1, 1, 1) * value_[e];
      sum = sum.defined() ? sum + y : y;
    }
    return sum;
  }

  int64_t flops_per_row() const override { return 2 * (score_.numel() + 2 * value_.numel()) / size(); }
  int64_t parameters_per_expert() const override { return (score_.numel() + value_.numel()) / size(); }

  PassMemory pass_memory(int64_t tokens, double, Precision, bool training) const override {
    const auto T = static_cast<double>(tokens), count = static_cast<double>(size());
    const auto width = static_cast<double>(value_.size(1));
    // Scores, parts of the two and what an expert has of each, for the backward pass; what an expert adds, and the sum.
    return {.kept = training ? 4 * T * 5 * count : 0, .passing = 4 * T * (5 * count + 4 * width), .packed = 0};
  }

 private:
  at::Tensor score_, value_;
};

}  // namespace

ExpertKind constant_experts_kind() {
  return {.name = "constant",
          .summary = "constants: they answer a mean of their input and a trained vector",
          .count = &MoeConfig::constant_experts,
          .make = [](const MoeConfig&, int64_t count, int64_t width, double init_std, const RandomStream& random) {
            return std::make_shared<ConstantExperts>(count, width, init_std, random);
          }};
}

}  // namespace smoe
