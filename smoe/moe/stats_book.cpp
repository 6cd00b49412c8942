#include "smoe/moe/stats_book.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "smoe/base/error.h"

namespace smoe {
namespace {

/// Replaces the rows of tokens that do not count by zeros.
at::Tensor mask_rows(const at::Tensor& values, const at::Tensor& valid) {
  if (!valid.defined()) return values;
  return values.masked_fill(valid.logical_not().view({-1, 1}), 0);
}

/// p·log p is 0 at p = 0; the clamp keeps the logarithm finite there. [T, E] → [T, 1]
at::Tensor entropy_of(const Probabilities& probabilities) {
  const at::Tensor& p = probabilities.value;
  return -(p * p.clamp_min(1e-30).log()).sum(-1, /*keepdim=*/true);
}

at::Tensor logsumexp_sq_of(const Logits& logits) { return at::logsumexp(logits.value, -1, /*keepdim=*/true).square(); }

/// Sums over the valid tokens that the gradient goes through.
LayerTerms terms_of(const Routing& routing, const LayerStats& stats, const at::Tensor& valid) {
  LayerTerms terms;
  terms.tokens = stats.tokens;
  terms.count = stats.count.to(routing.weight.options().requires_grad(false));
  terms.named = routing.terms;
  if (routing.probabilities.value.defined()) {
    terms.probability = mask_rows(routing.probabilities.value, valid).sum(0);
    terms.entropy = mask_rows(entropy_of(routing.probabilities), valid).sum();
  }
  if (routing.logits.value.defined()) terms.logsumexp_sq = mask_rows(logsumexp_sq_of(routing.logits), valid).sum();
  return terms;
}

at::Tensor sum_to_cpu(const at::Tensor& values) { return values.to(at::kDouble).sum(0).to(at::kCPU); }

LayerStats sums_of(const Routing& routing, int64_t experts, const at::Tensor& dropped, const at::Tensor& valid,
                   bool all) {
  const at::NoGradGuard no_grad;
  LayerStats stats;
  const at::Tensor expert =
      valid.defined() ? routing.expert.masked_fill(valid.logical_not().unsqueeze(1), -1) : routing.expert;
  const at::Tensor assigned = expert.masked_select(expert.ge(0)).to(at::kLong);
  stats.count = assigned.bincount({}, experts).to(at::kDouble).to(at::kCPU);
  stats.dropped = dropped.to(at::kCPU, at::kDouble);
  stats.probability = at::zeros({experts}, at::kDouble);
  stats.tokens = valid.defined() ? valid.sum().item<double>() : static_cast<double>(expert.size(0));
  if (all && routing.probabilities.value.defined()) {
    stats.probability = sum_to_cpu(mask_rows(routing.probabilities.value, valid));
    stats.entropy = sum_to_cpu(mask_rows(entropy_of(routing.probabilities), valid)).item<double>();
  }
  if (all && routing.logits.value.defined()) {
    stats.logsumexp_sq = sum_to_cpu(mask_rows(logsumexp_sq_of(routing.logits), valid)).item<double>();
  }
  return stats;
}

}  // namespace

at::Tensor LayerStats::load() const {
  const double total = count.sum().item<double>();
  return total > 0 ? count / total : count.clone();
}

double LayerStats::mean_active_experts() const {
  return tokens > 0 ? (count.sum().item<double>() - dropped.sum().item<double>()) / tokens : 0;
}

double LayerStats::dropped_fraction() const {
  const double total = count.sum().item<double>();
  return total > 0 ? dropped.sum().item<double>() / total : 0;
}

double ActiveExperts::among(int64_t first, int64_t size, int64_t experts) const {
  if (!kept_.defined()) return number_ * static_cast<double>(size) / static_cast<double>(experts);
  return tokens_ > 0 ? kept_.narrow(0, first, size).sum().item<double>() / tokens_ : 0;
}

LayerStats& LayerStats::operator+=(const LayerStats& other) {
  count = count + other.count;
  probability = probability + other.probability;
  dropped = dropped + other.dropped;
  entropy += other.entropy;
  logsumexp_sq += other.logsumexp_sq;
  tokens += other.tokens;
  return *this;
}

void StatsBook::record(int64_t layer, const Routing& routing, int64_t experts, const at::Tensor& dropped,
                       const at::Tensor& valid) {
  LayerStats stats = sums_of(routing, experts, dropped, valid, detail_ != Detail::kCounts);
  if (detail_ == Detail::kTerms) terms_[layer] = terms_of(routing, stats, valid);
  records_[layer][micro_batch_] = std::move(stats);
}

std::vector<LayerStats> StatsBook::layers() const {
  std::vector<LayerStats> out;
  for (const auto& [layer, micro_batches] : records_) {
    LayerStats sum = micro_batches.begin()->second;
    for (auto entry = std::next(micro_batches.begin()); entry != micro_batches.end(); ++entry) sum += entry->second;
    out.push_back(std::move(sum));
  }
  return out;
}

std::vector<LayerStats> StatsBook::layers(const ProcessGroup& group) const {
  std::vector<LayerStats> out = layers();
  for (LayerStats& stats : out) {
    at::Tensor scalars = at::tensor({stats.entropy, stats.logsumexp_sq, stats.tokens}, at::kDouble);
    for (at::Tensor* sum : {&stats.count, &stats.probability, &stats.dropped, &scalars}) group.all_reduce_sum(*sum);
    stats.entropy = scalars[0].item<double>();
    stats.logsumexp_sq = scalars[1].item<double>();
    stats.tokens = scalars[2].item<double>();
  }
  return out;
}

PooledCount StatsBook::pooled(int64_t layer) const {
  const auto found = records_.find(layer);
  require(found != records_.end(), "layer ", layer, " has recorded nothing that could be pooled");
  const std::map<int64_t, LayerStats>& micro_batches = found->second;
  at::Tensor sums;  // counts, tokens, micro-batches: they travel together
  for (const auto& [index, stats] : micro_batches) {
    const at::Tensor own = at::cat({stats.count, at::tensor({stats.tokens, 1.0}, at::kDouble)});
    sums = sums.defined() ? sums + own : own;
  }
  if (group_ != nullptr) group_->all_reduce_sum(sums);
  const int64_t experts = sums.numel() - 2;
  return {.count = sums.narrow(0, 0, experts),
          .tokens = sums[experts].item<double>(),
          .micro_batches = sums[experts + 1].item<double>()};
}

}  // namespace smoe
