// Dense baselines of the SMoE-Dropout paper (Chen et al., ICLR 2023): hidden units [T, F] of a block, dropped in training.
#include "smoe/models/hidden_dropout.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/logit.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "smoe/base/error.h"
#include "smoe/models/config.h"

namespace smoe {
namespace {

/// Numbers uniform in [0, 1) for each of the elements of `like`, fp32 [T, F].
at::Tensor uniform_like(const at::Tensor& like, const RandomStream& random) {
  const at::Tensor rows = at::arange(like.size(0), like.options().dtype(at::kLong).requires_grad(false));
  return random.uniform_rows(rows, like.size(1));
}

/// Concrete dropout (Gal et al., NeurIPS 2017): a rate p that is learnt, one a block.
///   z = σ((logit p + logit u) / temperature),  h (1 − z) / (1 − p)
///   objective: weight_scale ‖W2‖² / (1 − p) + rate_scale F (p ln p + (1 − p) ln(1 − p))
class ConcreteDropout : public HiddenDropout {
 public:
  ConcreteDropout(const ConcreteDropoutConfig& config, const RandomStream& random) : config_(config) {
    logit_ = register_parameter("logit", random.zeros({1}).add_(std::log(config.rate / (1 - config.rate))));
  }

  at::Tensor drop(const at::Tensor& hidden, const RandomStream& random) const override {
    constexpr double kSmall = 1e-7;  // keeps logarithms finite, as in the authors' code
    const at::Tensor noise = at::logit(uniform_like(hidden, random).to(logit_.scalar_type()), kSmall);
    const at::Tensor p = at::sigmoid(logit_).to(hidden.scalar_type());
    const at::Tensor gone = at::sigmoid((logit_ + noise) / config_.temperature);
    return hidden * (1 - gone).to(hidden.scalar_type()) / (1 - p);
  }

  bool is_beside_plain() const override { return false; }
  bool has_terms() const override { return config_.weight_scale > 0 || config_.rate_scale > 0; }

  std::map<std::string, Term> terms(const at::Tensor& w2) const override {
    if (!has_terms()) return {};
    const at::Tensor p = at::sigmoid(logit_), kept = 1 - p;
    const at::Tensor weights = w2.square().sum() / kept * config_.weight_scale;
    const at::Tensor entropy =
        (p * p.log() + kept * kept.log()) * (config_.rate_scale * static_cast<double>(w2.size(1)));
    return {{"concrete", {(weights + entropy).squeeze(0), 1}}};
  }

 private:
  ConcreteDropoutConfig config_;
  at::Tensor logit_;  // [1]
};

/// DropBlock (Ghiasi et al., NeurIPS 2018) along the units: runs of `size` of them, each unit the first of one with
/// probability rate/size; what stays is scaled by the share of units that stay in the whole batch.
class DropBlock : public HiddenDropout {
 public:
  explicit DropBlock(const DropBlockConfig& config) : config_(config) {}

  at::Tensor drop(const at::Tensor& hidden, const RandomStream& random) const override {
    const int64_t units = hidden.size(1), size = std::min(config_.size, units);
    const at::Tensor starts = uniform_like(hidden, random).lt(config_.rate / static_cast<double>(config_.size));
    const at::Tensor up_to = at::cumsum(starts, 1);
    const at::Tensor before = at::constant_pad_nd(up_to, {size, 0}).narrow(1, 0, units);
    const at::Tensor kept = up_to.eq(before).to(hidden.scalar_type());  // no run started at the last `size` units
    return hidden * kept * (static_cast<double>(kept.numel()) / kept.sum().clamp_min(1));
  }

  bool is_beside_plain() const override { return false; }

 private:
  DropBlockConfig config_;
};

/// Structured dropout by experts, as the published code of SMoE-Dropout has it: unit i belongs to group i mod `groups`, a
/// group is dropped for all tokens alike, and nothing is scaled.
class ExpertDropout : public HiddenDropout {
 public:
  explicit ExpertDropout(const ExpertDropoutConfig& config) : config_(config) {}

  at::Tensor drop(const at::Tensor& hidden, const RandomStream& random) const override {
    const auto whole = hidden.options().dtype(at::kLong).requires_grad(false);
    const at::Tensor draw = random.uniform_rows(at::zeros({1}, whole), config_.groups);  // [1, groups]
    const at::Tensor group = at::arange(hidden.size(1), whole).remainder(config_.groups);
    return hidden * draw.ge(config_.rate).index_select(1, group).to(hidden.scalar_type());
  }

  bool is_beside_plain() const override { return true; }

 private:
  ExpertDropoutConfig config_;
};

}  // namespace

std::map<std::string, Term> HiddenDropout::terms(const at::Tensor&) const { return {}; }

const std::vector<HiddenDropoutKind>& hidden_dropout_kinds() {
  using Made = std::shared_ptr<HiddenDropout>;
  static const std::vector<HiddenDropoutKind> kKinds = {
      {"plain", "each unit by itself, at model.dropout", "Srivastava et al., JMLR 2014",
       [](const ModelConfig&, int64_t, const RandomStream&) -> Made { return nullptr; }},
      {"concrete", "each unit by itself, at a rate that each block learns", "Gal et al., NeurIPS 2017",
       [](const ModelConfig& config, int64_t, const RandomStream& random) -> Made {
         return std::make_shared<ConcreteDropout>(config.concrete, random);
       }},
      {"drop_block", "runs of neighbouring units", "Ghiasi et al., NeurIPS 2018",
       [](const ModelConfig& config, int64_t, const RandomStream&) -> Made {
         return std::make_shared<DropBlock>(config.drop_block);
       }},
      {"expert", "groups of units as large as experts, for all tokens alike, beside plain dropout",
       "Chen et al., ICLR 2023 (published code)",
       [](const ModelConfig& config, int64_t hidden, const RandomStream&) -> Made {
         require(config.expert_dropout.groups <= hidden, "model.expert.groups = ", config.expert_dropout.groups,
                 " is more than the ", hidden, " hidden units of a block (model.ffn_width)");
         return std::make_shared<ExpertDropout>(config.expert_dropout);
       }},
  };
  return kKinds;
}

std::shared_ptr<HiddenDropout> make_hidden_dropout(const ModelConfig& config, int64_t hidden,
                                                   const RandomStream& random) {
  for (const HiddenDropoutKind& kind : hidden_dropout_kinds()) {
    if (kind.name == config.ffn_dropout) return kind.make(config, hidden, random);
  }
  throw UserError("model.ffn_dropout '" + config.ffn_dropout + "' is not known");
}

}  // namespace smoe
