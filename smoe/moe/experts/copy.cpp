// copy: experts that answer their input, E(x) = x (Jin et al., "MoE++", ICLR 2025). No parameters.
#include "smoe/moe/experts/kinds.h"
#include "smoe/moe/experts/slot_weights.h"

namespace smoe {
namespace {

class CopyExperts : public ExpertGroup {
 public:
  CopyExperts(int64_t count, int64_t width) : count_(count), width_(width) {}

  int64_t size() const override { return count_; }
  bool is_network() const override { return false; }

  at::Tensor mix(const at::Tensor& x, const at::Tensor& expert, const at::Tensor& weight, const MixOptions&) override {
    at::Tensor sum;
    for (const at::Tensor& of_expert : weights_by_expert(expert, weight, count_)) {
      sum = sum.defined() ? sum + of_expert : of_expert;
    }
    return sum * x;
  }

  int64_t flops_per_row() const override { return 0; }
  int64_t parameters_per_expert() const override { return 0; }

  PassMemory pass_memory(int64_t tokens, double, Precision, bool training) const override {
    const auto T = static_cast<double>(tokens);
    // Weights by expert and their sum, which the backward pass needs; what is added.
    return {.kept = training ? 4 * T : 0, .passing = 4 * T * static_cast<double>(count_ + width_), .packed = 0};
  }

 private:
  int64_t count_, width_;
};

}  // namespace

ExpertKind copy_experts_kind() {
  return {.name = "copy",
          .summary = "copies: they answer their input",
          .count = &MoeConfig::copy_experts,
          .make = [](const MoeConfig&, int64_t count, int64_t width, double, const RandomStream&) {
            return std::make_shared<CopyExperts>(count, width);
          }};
}

}  // namespace smoe
