#include "smoe/moe/stats_book.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/ones.h>
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
LayerTerms terms_of(const Routing& routing, const LayerRecord& record, const at::Tensor& valid) {
  LayerTerms terms;
  terms.tokens = record.tokens;
  terms.count = record.count().to(routing.weight.options().requires_grad(false));
  terms.named = routing.terms;
  if (routing.probabilities.value.defined()) {
    terms.probability = mask_rows(routing.probabilities.value, valid).sum(0);
    terms.entropy = mask_rows(entropy_of(routing.probabilities), valid).sum();
  }
  if (routing.logits.value.defined()) terms.logsumexp_sq = mask_rows(logsumexp_sq_of(routing.logits), valid).sum();
  return terms;
}

/// How often each expert was chosen; empty slots do not count. [experts] double
at::Tensor count_of(const at::Tensor& expert, int64_t experts) {
  const at::Tensor place = expert.reshape({-1}).to(at::kLong).add(1).clamp_min(0);  // empty slots in one of their own
  const auto type = expert.options().dtype(at::kDouble);
  return at::zeros({experts + 1}, type)
      .scatter_add_(0, place, at::ones({1}, type).expand_as(place))
      .narrow(0, 1, experts);
}

LayerRecord record_of(const Routing& routing, int64_t experts, const at::Tensor& dropped, const at::Tensor& valid,
                      bool all) {
  const at::NoGradGuard no_grad;
  const at::Tensor& given = routing.expert;
  const at::Tensor expert = valid.defined() ? given.masked_fill(valid.logical_not().unsqueeze(1), -1) : given;
  const auto type = expert.options().dtype(at::kDouble);
  const auto sum = [&](const at::Tensor& of_tokens) { return mask_rows(of_tokens, valid).to(type).sum(0); };
  at::Tensor probability = at::zeros({experts}, type), entropy = at::zeros({1}, type), logsumexp_sq = entropy;
  if (all && routing.probabilities.value.defined()) {
    probability = sum(routing.probabilities.value);
    entropy = sum(entropy_of(routing.probabilities));
  }
  if (all && routing.logits.value.defined()) logsumexp_sq = sum(logsumexp_sq_of(routing.logits));
  return {.sums = at::cat({count_of(expert, experts), probability, dropped.to(type), entropy, logsumexp_sq}),
          .tokens = valid.defined() ? valid.sum().item<double>() : static_cast<double>(expert.size(0))};
}

/// What is in a record's sums, which are on the CPU.
LayerStats stats_of(const LayerRecord& record) {
  const int64_t experts = record.experts();
  return {.count = record.count(),
          .probability = record.sums.narrow(0, experts, experts),
          .dropped = record.sums.narrow(0, 2 * experts, experts),
          .entropy = record.sums[3 * experts].item<double>(),
          .logsumexp_sq = record.sums[3 * experts + 1].item<double>(),
          .tokens = record.tokens};
}

/// The sums of a layer's micro-batches, in order.
LayerRecord sum_of(const std::map<int64_t, LayerRecord>& micro_batches) {
  LayerRecord sum = micro_batches.begin()->second;
  for (auto entry = std::next(micro_batches.begin()); entry != micro_batches.end(); ++entry) {
    sum = {.sums = sum.sums + entry->second.sums, .tokens = sum.tokens + entry->second.tokens};
  }
  return sum;
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

void StatsBook::record(int64_t layer, const Routing& routing, int64_t experts, const at::Tensor& dropped,
                       const at::Tensor& valid) {
  LayerRecord record = record_of(routing, experts, dropped, valid, detail_ != Detail::kCounts);
  if (detail_ == Detail::kTerms) terms_[layer] = terms_of(routing, record, valid);
  records_[layer][micro_batch_] = std::move(record);
}

std::vector<LayerStats> StatsBook::layers() const {
  std::vector<LayerRecord> records;
  std::vector<at::Tensor> sums;
  for (const auto& [layer, micro_batches] : records_) {
    records.push_back(sum_of(micro_batches));
    sums.push_back(records.back().sums);
  }
  if (records.empty()) return {};
  const at::Tensor all = at::cat(sums).to(at::kCPU);  // a device is waited for once
  std::vector<LayerStats> out;
  int64_t first = 0;
  for (LayerRecord& record : records) {
    const int64_t size = record.sums.size(0);
    record.sums = all.narrow(0, first, size);
    out.push_back(stats_of(record));
    first += size;
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
  const LayerRecord record = sum_of(found->second);
  const auto micro_batches = static_cast<double>(found->second.size());
  // They travel together.
  at::Tensor sums = at::cat({record.count().to(at::kCPU), at::tensor({record.tokens, micro_batches}, at::kDouble)});
  if (group_ != nullptr) group_->all_reduce_sum(sums);
  const int64_t experts = sums.numel() - 2;
  return {.count = sums.narrow(0, 0, experts),
          .tokens = sums[experts].item<double>(),
          .micro_batches = sums[experts + 1].item<double>()};
}

}  // namespace smoe
