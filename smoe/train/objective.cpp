#include "smoe/train/objective.h"

#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logsumexp.h>

#include <utility>

#include "smoe/base/error.h"
#include "smoe/base/suggest.h"

namespace smoe {
namespace {

/// The mean negative log-likelihood of the next token, and what keeps the output's logits small.
class Likelihood : public Objective {
 public:
  explicit Likelihood(double output_z) : output_z_(output_z) {}

  ObjectiveResult compute(LanguageModel& model, const at::Tensor& input, const at::Tensor& target, Memory& memory,
                          const Pass& pass) const override {
    const at::Tensor logits = model.forward(input, memory, pass), loss = mean_nll(logits, target);
    ObjectiveResult result{.loss = loss, .nll = loss.item<double>()};
    if (output_z_ > 0) result.parts.push_back({"output_z", output_z_loss(logits), output_z_});
    return result;
  }

 private:
  double output_z_;
};

/// Two passes that must agree (Zuo et al., ICLR 2022). They draw experts and dropout apart; the memory that stays, and the
/// routing that is recorded, are the first one's.
///   thor            CE1 + CE2 + α · ½ Σ_v (p1 − p2)(log p1 − log p2)
///   smoe_dropout    (CE1 + CE2)/2 + α · 1/V Σ_v (p1 − p2)(log p1 − log p2), as the code of Chen et al. has it
class Thor : public Objective {
 public:
  Thor(ThorObjectiveConfig config, double output_z) : config_(std::move(config)), output_z_(output_z) {}

  ObjectiveResult compute(LanguageModel& model, const at::Tensor& input, const at::Tensor& target, Memory& memory,
                          const Pass& pass) const override {
    Memory before = memory;
    const at::Tensor first = model.forward(input, memory, pass);
    Pass again = pass;
    again.random = pass.random.at("second pass");
    again.book = nullptr;
    const at::Tensor second = model.forward(input, before, again);
    const at::Tensor likelihood = mean_nll(first, target) + mean_nll(second, target);
    const bool thor = config_.form == "thor";
    const at::Tensor divergence = symmetric_divergence(first, second);
    const at::Tensor consistency = thor ? divergence / 2 : divergence / static_cast<double>(first.size(-1));
    ObjectiveResult result{.loss = thor ? likelihood : likelihood / 2,
                           .nll = likelihood.item<double>() / 2,
                           .parts = {{"consistency", consistency, config_.alpha}}};
    if (output_z_ > 0) {
      result.parts.push_back({"output_z", (output_z_loss(first) + output_z_loss(second)) / 2, output_z_});
    }
    return result;
  }

 private:
  ThorObjectiveConfig config_;
  double output_z_;
};

}  // namespace

void ThorObjectiveConfig::describe(Fields& fields) {
  fields.add("alpha", &alpha, "weight of what the two passes disagree by", at_least(0));
  fields.add(
      "form", &form,
      "thor: both likelihoods and the symmetric divergence summed over the vocabulary; smoe_dropout: their mean, "
      "and the divergence divided by the vocabulary",
      one_of({"thor", "smoe_dropout"}));
}

void ObjectiveConfig::describe(Fields& fields) {
  std::vector<std::string> names;
  for (const ObjectiveKind& entry : objective_kinds()) names.push_back(entry.name);
  fields.add("kind", &kind,
             "what is minimised: the likelihood of the next token, or that of two passes that must agree",
             one_of(names));
  fields.add_newer("output_z", &output_z,
                   "weight of the mean squared logsumexp of the output's logits, which keeps them small", at_least(0));
  fields.kind_table("thor", kind, thor);
}

const std::vector<ObjectiveKind>& objective_kinds() {
  static const std::vector<ObjectiveKind> kKinds = {
      {"likelihood", "negative log-likelihood of the next token",
       [](const ObjectiveConfig& config) -> std::unique_ptr<Objective> {
         return std::make_unique<Likelihood>(config.output_z);
       }},
      {"thor", "the same of two passes, and what they disagree by (Zuo et al., ICLR 2022)",
       [](const ObjectiveConfig& config) -> std::unique_ptr<Objective> {
         return std::make_unique<Thor>(config.thor, config.output_z);
       }},
  };
  return kKinds;
}

std::unique_ptr<Objective> make_objective(const ObjectiveConfig& config) {
  std::vector<std::string> names;
  for (const ObjectiveKind& kind : objective_kinds()) {
    if (kind.name == config.kind) return kind.make(config);
    names.push_back(kind.name);
  }
  throw UserError("objective.kind '" + config.kind + "' is not known" + suggest(config.kind, names));
}

at::Tensor output_z_loss(const at::Tensor& logits) { return at::logsumexp(logits, -1).square().mean(); }

at::Tensor symmetric_divergence(const at::Tensor& logits, const at::Tensor& others) {
  // From logarithms on: a probability that rounds to 0 has one all the same.
  const at::Tensor log_p = at::log_softmax(logits, -1), log_q = at::log_softmax(others, -1);
  return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean();
}

}  // namespace smoe
