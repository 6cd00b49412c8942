#include "smoe/moe/limit.h"

#include <ATen/ops/zeros.h>

#include <cmath>
#include <vector>

namespace smoe {

int64_t capacity_of(double factor, int64_t tokens, int64_t k, int64_t experts) {
  if (factor == 0) return -1;
  return static_cast<int64_t>(std::ceil(factor * static_cast<double>(tokens * k) / static_cast<double>(experts)));
}

Limited limit_by_position(const Routing& routing, int64_t experts, int64_t capacity, const at::Tensor& valid) {
  at::Tensor dropped = at::zeros({experts}, at::kLong);
  if (capacity < 0) return {routing, dropped};
  at::Tensor expert = routing.expert.to(at::kCPU).clone(at::MemoryFormat::Contiguous);
  if (valid.defined()) expert.masked_fill_(valid.to(at::kCPU).logical_not().unsqueeze(1), -1);
  int32_t* id = expert.mutable_data_ptr<int32_t>();
  int64_t* dropped_data = dropped.mutable_data_ptr<int64_t>();
  std::vector<int64_t> taken(static_cast<size_t>(experts), 0);
  for (int64_t i = 0; i < expert.numel(); ++i) {
    if (id[i] < 0) continue;
    if (taken[static_cast<size_t>(id[i])]++ >= capacity) {
      ++dropped_data[id[i]];
      id[i] = -1;
    }
  }
  Routing kept = routing;
  kept.expert = expert.to(routing.expert.device());
  kept.weight = routing.weight.masked_fill(kept.expert.lt(0), 0);
  return {kept, dropped};
}

}  // namespace smoe
