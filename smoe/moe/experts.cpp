#include "smoe/moe/experts.h"

#include <ATen/ops/zeros_like.h>

#include "smoe/base/error.h"
#include "smoe/base/suggest.h"
#include "smoe/moe/experts/kinds.h"
#include "smoe/tensor/profiled_part.h"

namespace smoe {

Experts::Experts(std::vector<std::shared_ptr<ExpertGroup>> groups) : groups_(std::move(groups)) {
  require(!groups_.empty(), "a mixture needs at least one group of experts");
  for (size_t i = 0; i < groups_.size(); ++i) {
    register_module(std::to_string(i), groups_[i]);
    size_ += groups_[i]->size();
  }
}

at::Tensor Experts::mix(const at::Tensor& x, const Routing& routing, const MixOptions& options) {
  const ProfiledPart part("smoe.experts");
  at::Tensor sum;
  int64_t first = 0;
  for (const auto& group : groups_) {
    MixOptions of_group = options;
    of_group.dropout_key = derive_key(options.dropout_key, static_cast<uint64_t>(first));
    // Ids below a group's first turn negative and ids past its last exceed its size: both are empty slots to it.
    const at::Tensor expert = first == 0 ? routing.expert : routing.expert - first;
    const at::Tensor y = group->mix(x, expert, routing.weight, of_group);
    if (y.defined()) sum = sum.defined() ? sum + y : y;
    first += group->size();
  }
  return sum.defined() ? sum : at::zeros_like(x);
}

const std::vector<ExpertKind>& expert_kinds() {
  static const std::vector<ExpertKind> kKinds = {
      ffn_experts_kind(),
      null_experts_kind(),
      copy_experts_kind(),
      constant_experts_kind(),
  };
  return kKinds;
}

std::vector<std::shared_ptr<ExpertGroup>> routed_experts(const MoeConfig& config, int64_t width, double init_std,
                                                         const RandomStream& random) {
  std::vector<std::shared_ptr<ExpertGroup>> groups = {
      find_expert_kind(config.expert_kind).make(config, config.networks(), width, init_std, random)};
  for (const ExpertKind& kind : expert_kinds()) {
    const int64_t count = kind.count == nullptr ? 0 : config.*kind.count;
    if (count > 0) groups.push_back(kind.make(config, count, width, init_std, random.at(kind.name)));
  }
  return groups;
}

const ExpertKind& find_expert_kind(const std::string& name) {
  std::vector<std::string> names;
  for (const ExpertKind& kind : expert_kinds()) {
    if (kind.name == name) return kind;
    names.push_back(kind.name);
  }
  throw UserError("expert kind '" + name + "' is not known" + suggest(name, names));
}

}  // namespace smoe
