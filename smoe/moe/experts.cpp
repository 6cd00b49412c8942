#include "smoe/moe/experts.h"

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
  const at::Tensor operand = to_compute(x, options.precision);
  at::Tensor sum;
  int64_t first = 0;
  for (const auto& group : groups_) {
    MixOptions of_group = options;
    of_group.dropout_key = derive_key(options.dropout_key, static_cast<uint64_t>(first));
    // Ids below a group's first turn negative and ids past its last exceed its size: both are empty slots to it.
    const at::Tensor expert = first == 0 ? routing.expert : routing.expert - first;
    const at::Tensor y = group->mix(operand, expert, routing.weight, of_group).to(x.scalar_type());
    sum = sum.defined() ? sum + y : y;
    first += group->size();
  }
  return sum;
}

const std::vector<ExpertKind>& expert_kinds() {
  static const std::vector<ExpertKind> kinds = {
      ffn_experts_kind(),
  };
  return kinds;
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
