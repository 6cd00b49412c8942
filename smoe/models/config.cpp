#include "smoe/models/config.h"

#include <algorithm>

#include "smoe/base/error.h"
#include "smoe/models/model.h"

namespace smoe {

namespace {

constexpr double kMostParameters = 1e12;

/// About how many parameters a model has, in a number that no sizes overflow.
double parameter_estimate(const ModelSpec& spec) {
  const auto width = static_cast<double>(spec.model.width);
  const auto experts = static_cast<double>(spec.moe.experts) + static_cast<double>(spec.moe.shared_experts);
  const double attention =
      5 * width * static_cast<double>(spec.model.heads) * static_cast<double>(spec.model.head_width);
  const double mixture = experts * (2 * static_cast<double>(spec.moe.expert_width) + 1) * width;
  const double dense = 2 * static_cast<double>(spec.model.ffn_width) * width;
  return static_cast<double>(spec.vocabulary) * width +
         static_cast<double>(spec.model.layers) * (attention + (spec.has_moe() ? std::max(mixture, dense) : dense));
}

}  // namespace

void ModelConfig::describe(Fields& fields) {
  std::vector<std::string> kinds;
  for (const ModelKind& entry : model_kinds()) kinds.push_back(entry.name);
  fields.add("kind", &kind, "the model", one_of(kinds));
  fields.add("layers", &layers, "transformer blocks (L)", between(1, 10000));
  fields.add("width", &width, "model width (D), even", at_least(2));
  fields.add("heads", &heads, "attention heads (N)", at_least(1));
  fields.add("head_width", &head_width, "width of a head (P)", at_least(1));
  fields.add("ffn_width", &ffn_width, "hidden width of layers that are no mixtures", at_least(1));
  fields.add("moe_layers", &moe_layers, "which layers are mixtures: \"all\", \"none\" or a list of ids");
  fields.add("dropout", &dropout, "dropout of embeddings, sub-layers, experts and the output", between(0, 0.999));
  fields.add("attention_dropout", &attention_dropout, "dropout of attention probabilities", between(0, 0.999));
  fields.add("init_std", &init_std, "standard deviation of initial weights", above(0));
}

void ModelSpec::check() const {
  require(model.width % 2 == 0, "model.width = ", model.width, " must be even: positions are sines and cosines");
  for (const int64_t layer : model.moe_layers.ids) {
    require(layer < model.layers, "model.moe_layers names layer ", layer, ", but model.layers = ", model.layers,
            ": the last is layer ", model.layers - 1);
  }
  require(vocabulary >= 1, "the vocabulary is empty");
  const double parameters = parameter_estimate(*this);
  require(parameters <= kMostParameters, "the model would have about ", parameters, " parameters, and more than ",
          kMostParameters, " are a slip: see model.width, model.heads, model.head_width, model.ffn_width, moe.experts ",
          "and moe.expert_width");
  if (has_moe()) moe.check();
}

bool ModelSpec::has_moe() const { return model.moe_layers.all || !model.moe_layers.ids.empty(); }

}  // namespace smoe
