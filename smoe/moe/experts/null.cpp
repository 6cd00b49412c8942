// null: experts that answer zero (Zeng et al., "AdaMoE", EMNLP Findings 2024; the zero experts of Jin et al., "MoE++", ICLR
// 2025). A token that takes nothing else rides the residual. They have no parameters, and what they add is nothing.
#include "smoe/moe/experts/kinds.h"

namespace smoe {
namespace {

class NullExperts : public ExpertGroup {
 public:
  explicit NullExperts(int64_t count) : count_(count) {}

  int64_t size() const override { return count_; }
  bool is_network() const override { return false; }
  at::Tensor mix(const at::Tensor&, const at::Tensor&, const at::Tensor&, const MixOptions&) override { return {}; }
  int64_t flops_per_row() const override { return 0; }
  int64_t parameters_per_expert() const override { return 0; }
  PassMemory pass_memory(int64_t, double, Precision, bool) const override { return {}; }

 private:
  int64_t count_;
};

}  // namespace

ExpertKind null_experts_kind() {
  return {.name = "null",
          .summary = "nothing: they answer zero",
          .count = &MoeConfig::null_experts,
          .make = [](const MoeConfig&, int64_t count, int64_t, double, const RandomStream&) {
            return std::make_shared<NullExperts>(count);
          }};
}

}  // namespace smoe
