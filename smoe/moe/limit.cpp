#include "smoe/moe/limit.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "smoe/base/error.h"
#include "smoe/base/suggest.h"

namespace smoe {
namespace {

/// The places of a routing's T·K assignments, those first that are to be kept first.
std::vector<int64_t> in_priority(const Routing& routing, DropPriority priority) {
  const int64_t tokens = routing.expert.size(0), slots = routing.expert.size(1);
  std::vector<int64_t> order(static_cast<size_t>(tokens * slots));
  if (priority == DropPriority::kChoice) {
    size_t place = 0;
    for (int64_t slot = 0; slot < slots; ++slot) {
      for (int64_t token = 0; token < tokens; ++token) order[place++] = token * slots + slot;
    }
    return order;
  }
  std::iota(order.begin(), order.end(), 0);
  if (priority == DropPriority::kScore) {
    // A weight that is no number has a place in the order too; the loss will tell of it.
    const at::Tensor weight = routing.weight.detach().to(at::kCPU, at::kDouble).nan_to_num().contiguous();
    const double* w = weight.const_data_ptr<double>();
    std::stable_sort(order.begin(), order.end(), [w](int64_t a, int64_t b) { return w[a] > w[b]; });
  }
  return order;
}

}  // namespace

std::vector<std::string> drop_priority_names() { return {"position", "choice", "score"}; }

DropPriority parse_drop_priority(const std::string& name) {
  if (name == "position") return DropPriority::kPosition;
  if (name == "choice") return DropPriority::kChoice;
  if (name == "score") return DropPriority::kScore;
  throw UserError("drop priority '" + name + "' is not known" + suggest(name, drop_priority_names()));
}

int64_t capacity_of(double factor, int64_t tokens, int64_t k, int64_t experts) {
  if (factor == 0) return -1;
  return static_cast<int64_t>(std::ceil(factor * static_cast<double>(tokens * k) / static_cast<double>(experts)));
}

std::vector<int64_t> capacities_of(double factor, int64_t tokens, int64_t k, const std::vector<double>& shares) {
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  std::vector<int64_t> capacities;
  for (const double share : shares) {
    const double own = factor * static_cast<double>(tokens * k) * share / sum;
    capacities.push_back(static_cast<int64_t>(std::ceil(own)));
  }
  return capacities;
}

Limited limit(const Routing& routing, int64_t experts, int64_t capacity, DropPriority priority,
              const at::Tensor& valid) {
  if (capacity < 0) return {routing, at::zeros({experts}, routing.expert.options().dtype(at::kLong))};
  return limit(routing, std::vector<int64_t>(static_cast<size_t>(experts), capacity), priority, valid);
}

Limited limit(const Routing& routing, const std::vector<int64_t>& capacities, DropPriority priority,
              const at::Tensor& valid) {
  const auto experts = static_cast<int64_t>(capacities.size());
  at::Tensor dropped = at::zeros({experts}, at::kLong);
  at::Tensor expert = routing.expert.to(at::kCPU).clone(at::MemoryFormat::Contiguous);
  if (valid.defined()) expert.masked_fill_(valid.to(at::kCPU).logical_not().unsqueeze(1), -1);
  int32_t* id = expert.mutable_data_ptr<int32_t>();
  int64_t* dropped_data = dropped.mutable_data_ptr<int64_t>();
  std::vector<int64_t> taken(capacities.size(), 0);
  for (const int64_t i : in_priority(routing, priority)) {
    if (id[i] < 0) continue;
    const auto own = static_cast<size_t>(id[i]);
    if (taken[own]++ >= capacities[own]) {
      ++dropped_data[id[i]];
      id[i] = -1;
    }
  }
  Routing kept = routing;
  kept.expert = expert.to(routing.expert.device());
  kept.weight = routing.weight.masked_fill(kept.expert.lt(0), 0);
  return {kept, dropped};
}

Limited limit_by_position(const Routing& routing, int64_t experts, int64_t capacity, const at::Tensor& valid) {
  return limit(routing, experts, capacity, DropPriority::kPosition, valid);
}

}  // namespace smoe
