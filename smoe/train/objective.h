// Objectives: what a batch becomes before the gradient is taken. One may run the model more than once.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "smoe/models/model.h"
#include "smoe/moe/losses.h"
#include "smoe/train/objective_config.h"

namespace smoe {

/// What an objective makes of a micro-batch: loss + Σ weight · value of the parts is what is minimised, a mean a token.
struct ObjectiveResult {
  at::Tensor loss;                    ///< []
  double nll = 0;                     ///< mean negative log-likelihood in nats, which bpc is made of
  std::vector<NamedLoss> parts = {};  ///< reported apart
};

class Objective {
 public:
  virtual ~Objective() = default;
  /// input, target int64 [B, S]. `memory` is read, and replaced by what follows these tokens.
  virtual ObjectiveResult compute(LanguageModel& model, const at::Tensor& input, const at::Tensor& target,
                                  Memory& memory, const Pass& pass) const = 0;
};

/// A kind of objective as the table of kinds lists it.
struct ObjectiveKind {
  std::string name;
  std::string summary;
  std::unique_ptr<Objective> (*make)(const ObjectiveConfig&);
};

const std::vector<ObjectiveKind>& objective_kinds();

/// Throws UserError for a kind that is not known, with the nearest name.
std::unique_ptr<Objective> make_objective(const ObjectiveConfig& config);

/// Mean over the tokens of (log Σ_v exp z_v)², z the output's logits [B, S, V] (Chowdhery et al., "PaLM", 2022, §5). []
at::Tensor output_z_loss(const at::Tensor& logits);

/// Mean over the tokens of Σ_v (p1 − p2)(log p1 − log p2), p = softmax of logits [B, S, V]: twice the symmetric
/// Kullback–Leibler divergence, 0 where the two agree. []
at::Tensor symmetric_divergence(const at::Tensor& logits, const at::Tensor& others);

}  // namespace smoe
