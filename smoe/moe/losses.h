// Auxiliary losses: functions of the statistics of routing, added to the objective with weights of the recipe.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "smoe/base/config.h"
#include "smoe/moe/stats_book.h"

namespace smoe {

/// The table [losses] of a recipe: the weight of each loss.
struct LossConfig {
  double balance = 0;
  double z = 0;
  double entropy = 0;
  double device_balance = 0;
  double global_balance = 0;
  int64_t devices = 1;

  void describe(Fields& fields);
  /// Whether any has a weight.
  bool any() const;
};

/// Σ over layers of E · Σ_i f_i P_i (Fedus et al., JMLR 2022, eq. 4): f_i the share of the assignments that went to expert
/// i, without gradient, Σ f = 1; P_i the mean probability of expert i. 1 a layer at balance, for any number of experts a
/// token; systems that count f_i a token have k times the weight. Layers are never pooled, where the imbalance of one
/// would hide that of another. All losses take the micro-batch at hand of `book`, whose detail must be kTerms; they are 0
/// where there is no valid token, and throw UserError for a layer without the statistic. [] with gradient
at::Tensor balance_loss(const StatsBook& book);

/// Σ over layers of the mean over tokens of (log Σ_i exp z_i)² (Zoph et al., 2022, eq. 5).
at::Tensor z_loss(const StatsBook& book);

/// Σ over layers of the mean over tokens of the probabilities' entropy, in nats (Huang et al., ACL 2024).
at::Tensor entropy_loss(const StatsBook& book);

/// Σ over layers of Σ_D f'_D P'_D over `devices` groups of consecutive experts of one size: f'_D the mean of E·f_i in the
/// group, P'_D the sum of its P_i (Dai et al., "DeepSeekMoE", ACL 2024, eq. 15 to 17). 1 a layer at balance, and always
/// with one group. Throws UserError where `devices` does not divide the number of experts.
at::Tensor device_balance_loss(const StatsBook& book, int64_t devices);

/// The balance loss with f of the whole optimizer step instead of the micro-batch (Qiu et al., "Demons in the Detail",
/// 2025): f̄_i from the assignments of all ranks in the micro-batches so far, P_i of this one. Its mean over the ranks is
/// the balance loss of the pooled batch where there is one micro-batch a rank; of several, the earlier ones see what was
/// counted until then (the paper's buffer), and the last one all. A micro-batch weighs by its valid tokens, as a multiple
/// of the mean number of them so far, so that a mean over micro-batches is one over tokens.
at::Tensor global_balance_loss(const StatsBook& book);

/// A loss as the table of kinds lists it.
struct LossKind {
  std::string name;
  std::string summary;
  std::string paper;
  double LossConfig::* weight;
  at::Tensor (*loss)(const StatsBook&, const LossConfig&);
};

const std::vector<LossKind>& loss_kinds();

/// A loss beside the task's: what is added to the objective is weight · value.
struct NamedLoss {
  std::string name;
  at::Tensor value;  ///< []
  double weight = 0;
};

/// The losses that have a weight, in the order of their table, and then the terms of routers and of other parts, summed over
/// the layers.
std::vector<NamedLoss> auxiliary_losses(const StatsBook& book, const LossConfig& config);

}  // namespace smoe
