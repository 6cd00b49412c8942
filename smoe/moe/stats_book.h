// Statistics of routing, layer by layer, added up over micro-batches and ranks exactly once.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "smoe/moe/routing.h"
#include "smoe/tensor/process_group.h"

namespace smoe {

/// Sums over the valid tokens of one layer. Double precision, on the CPU.
struct LayerStats {
  at::Tensor count;         ///< [E] assignments to each expert, before limit
  at::Tensor probability;   ///< [E] summed probabilities; zeros where the kind has none
  at::Tensor dropped;       ///< [E] assignments that limit took out
  double entropy = 0;       ///< summed entropy of the probabilities, in nats
  double logsumexp_sq = 0;  ///< summed squared logsumexp of the logits
  double tokens = 0;

  /// Fraction of the assignments that went to each expert; zeros where there was none.
  at::Tensor load() const;
  double mean_entropy() const { return tokens > 0 ? entropy / tokens : 0; }
  /// Assignments a token that were kept, to experts of any kind.
  double mean_active_experts() const;
  double dropped_fraction() const;
};

/// The same sums in one micro-batch, or several, on the device that they were made on, which is not waited for.
struct LayerRecord {
  at::Tensor sums;  ///< [3 E + 2] double: count, probability, dropped, entropy, logsumexp_sq
  double tokens = 0;

  int64_t experts() const { return sums.size(0) / 3; }
  at::Tensor count() const { return sums.narrow(0, 0, experts()); }
};

/// How many of a layer's experts a token takes: a number, spread evenly over all of them, or what was counted.
class ActiveExperts {
 public:
  ActiveExperts(double number) : number_(number) {}  // NOLINT: a plain number is the common case
  explicit ActiveExperts(const LayerStats& counted) : kept_(counted.count - counted.dropped), tokens_(counted.tokens) {}

  /// How many of the `size` experts from id `first` on, in a layer of `experts`.
  double among(int64_t first, int64_t size, int64_t experts) const;

 private:
  double number_ = 0;
  at::Tensor kept_;  // [E]; undefined where the number holds
  double tokens_ = 0;
};

/// The same sums over the valid tokens of one layer in the micro-batch at hand, with the gradient that losses send back
/// through them; in the router's dtype, on its device.
struct LayerTerms {
  at::Tensor count;         ///< [E], without gradient
  at::Tensor probability;   ///< [E]; undefined where the kind has none
  at::Tensor entropy;       ///< []; undefined where the kind has no probabilities
  at::Tensor logsumexp_sq;  ///< []; undefined where the kind has no logits
  double tokens = 0;
  std::map<std::string, Term> named;  ///< the router's own
};

/// What a step's assignments add up to so far, over its micro-batches and the ranks.
struct PooledCount {
  at::Tensor count;          ///< [E] double, on the CPU
  double tokens = 0;         ///< valid ones
  double micro_batches = 0;  ///< of all ranks
};

/// What a layer did in one forward, for whoever looks on while it is at hand.
struct LayerView {
  int64_t layer = 0;
  const RouteInput& input;
  const Routing& routing;  ///< the router's answer
  const Routing& kept;     ///< what limit left of it
};
using LayerObserver = std::function<void(const LayerView&)>;

/// The statistics of one optimizer step, or of one evaluation. A micro-batch that is computed twice (recomputed
/// activations) is counted once: its second record replaces the first.
class StatsBook {
 public:
  /// Which sums are kept: the counts only, which cost next to nothing; all; or all, and the terms that losses need.
  enum class Detail { kCounts, kAll, kTerms };

  explicit StatsBook(Detail detail = Detail::kAll) : detail_(detail) {}

  /// Names the micro-batch that the following records belong to.
  void begin_micro_batch(int64_t index) {
    micro_batch_ = index;
    terms_.clear();
    other_terms_.clear();
  }

  /// Adds what layer `layer` did. `routing` is the router's answer, before limit; `dropped` int64 [E] is what limit took
  /// out; `valid` bool [T] masks padding out of every sum and may be undefined.
  void record(int64_t layer, const Routing& routing, int64_t experts, const at::Tensor& dropped,
              const at::Tensor& valid);

  /// Has `observer` called with each layer's forward, after it was recorded; a forward that is computed twice is seen twice.
  void observe(LayerObserver observer) { observer_ = std::move(observer); }
  const LayerObserver& observer() const { return observer_; }

  /// Names the ranks that pooled() adds up; without it, this one alone. The group is borrowed.
  void share_among(const ProcessGroup& group) { group_ = &group; }

  /// What layer `layer` was assigned in the micro-batches so far, over all ranks, which must ask alike. Throws UserError
  /// where the layer has recorded nothing.
  PooledCount pooled(int64_t layer) const;

  /// Takes what layer `layer`, which is no mixture, adds to the objective, by name; kept where the detail is kTerms.
  void record_terms(int64_t layer, std::map<std::string, Term> terms) {
    if (detail_ == Detail::kTerms) other_terms_[layer] = std::move(terms);
  }

  /// The sums over all micro-batches, one entry a layer in ascending order, on this rank or over all ranks of `group`.
  std::vector<LayerStats> layers() const;
  std::vector<LayerStats> layers(const ProcessGroup& group) const;

  /// What the layers did in the micro-batch at hand, by layer; empty unless the detail is kTerms.
  const std::map<int64_t, LayerTerms>& terms() const { return terms_; }

  /// What layers that are no mixtures add in the micro-batch at hand, by layer and name.
  const std::map<int64_t, std::map<std::string, Term>>& other_terms() const { return other_terms_; }

  void clear() {
    records_.clear();
    terms_.clear();
    other_terms_.clear();
  }

 private:
  Detail detail_;
  int64_t micro_batch_ = 0;
  const ProcessGroup* group_ = nullptr;
  LayerObserver observer_;
  std::map<int64_t, std::map<int64_t, LayerRecord>> records_;  // layer → micro-batch → sums
  std::map<int64_t, LayerTerms> terms_;                        // layer → terms of this micro-batch
  std::map<int64_t, std::map<std::string, Term>> other_terms_;
};

}  // namespace smoe
