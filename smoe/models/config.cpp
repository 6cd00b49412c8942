#include "smoe/models/config.h"

#include <algorithm>

#include "smoe/base/error.h"
#include "smoe/models/hidden_dropout.h"
#include "smoe/models/model.h"

namespace smoe {
namespace {

constexpr double kMostParameters = 1e12;

/// About how many parameters a model has, in a number that no sizes overflow.
double parameter_estimate(const ModelSpec& spec) {
  const auto width = static_cast<double>(spec.model.width);
  const auto experts = static_cast<double>(spec.moe.experts) + static_cast<double>(spec.moe.shared_experts);
  const double projections = spec.has_mixture_attention() ? static_cast<double>(spec.model.mixture.experts) : 1;
  const double attention = (3 * projections + 2) * width * static_cast<double>(spec.model.heads) *
                           static_cast<double>(spec.model.head_width);
  const double mixture = experts * (2 * static_cast<double>(spec.moe.expert_width) + 1) * width;
  const double dense = 2 * static_cast<double>(spec.model.ffn_width) * width;
  return static_cast<double>(spec.vocabulary) * width +
         static_cast<double>(spec.model.layers) * (attention + (spec.has_moe() ? std::max(mixture, dense) : dense));
}

void check_layers(const LayerSelection& selection, const char* name, int64_t layers) {
  for (const int64_t layer : selection.ids) {
    require(layer < layers, name, " names layer ", layer, ", but model.layers = ", layers, ": the last is layer ",
            layers - 1);
  }
}

/// Its router sees vectors alone, past ones too, and no statistics of it are kept: the kinds that can do with that.
void check_mixture_attention(const MixtureAttentionConfig& mixture, const MoeConfig& moe) {
  require(mixture.k <= mixture.experts, "model.mixture.k = ", mixture.k,
          " is larger than model.mixture.experts = ", mixture.experts, ": a token takes each expert at most once");
  require(moe.router == "random_frozen" || moe.router == "learned",
          "model.attention = \"mixture\" takes moe.router = ", "\"random_frozen\" or \"learned\", not \"", moe.router,
          "\"");
  if (moe.router != "learned") return;
  const LearnedSettings& learned = moe.routers.learned;
  require(mixture.k > 1 || learned.score != "selected_softmax", "model.mixture.k = 1 with moe.learned.score = ",
          "\"selected_softmax\" gives the one expert the weight 1, and its router would learn nothing; take ",
          "moe.learned.score = \"softmax\", or a larger k");
  require(mixture.k > 1 || !learned.renormalize, "model.mixture.k = 1 with moe.learned.renormalize = true gives the ",
          "one expert the weight 1, and its router would learn nothing; set it to false, or take a larger k");
  require(learned.bias_rate == 0, "moe.learned.bias_rate = ", learned.bias_rate,
          " balances by statistics that mixture attention does not keep; set it to 0");
}

}  // namespace

void ConcreteDropoutConfig::describe(Fields& fields) {
  fields.add("rate", &rate, "the dropout rate that every block starts to learn from",
             Allowed{.min = 0, .max = 0.999, .open_min = true, .names = {}});
  fields.add("temperature", &temperature, "temperature of the soft choice of units; near 0 it is a hard one", above(0));
  fields.add("weight_scale", &weight_scale, "weight of the second matrix' squared norm over 1 - rate", at_least(0));
  fields.add("rate_scale", &rate_scale, "weight of the rate's negative entropy times the hidden width", at_least(0));
}

void DropBlockConfig::describe(Fields& fields) {
  fields.add("rate", &rate, "probability of a run divided by its size: about the share of units that are dropped",
             between(0, 0.999));
  fields.add("size", &size, "units of a run", at_least(1));
}

void ExpertDropoutConfig::describe(Fields& fields) {
  fields.add("rate", &rate, "probability that a group is dropped", between(0, 0.999));
  fields.add("groups", &groups, "groups that the hidden units of a block are dealt out to", at_least(1));
}

void MixtureAttentionConfig::describe(Fields& fields) {
  fields.add(
      "layers", &layers,
      "layers whose queries, keys and values come from a mixture of projections, by moe.router: \"all\", \"none\" "
      "or a list of ids");
  fields.add("experts", &experts, "projections of such a layer", at_least(1));
  fields.add("k", &k, "active ones; the k schedule and --k leave them alone", at_least(1));
}

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
  std::vector<std::string> dropouts;
  for (const HiddenDropoutKind& entry : hidden_dropout_kinds()) dropouts.push_back(entry.name);
  fields.add_newer("ffn_dropout", &ffn_dropout,
                   "how hidden units of layers that are no mixtures are dropped in training", one_of(dropouts));
  fields.kind_table("concrete", ffn_dropout, concrete);
  fields.kind_table("drop_block", ffn_dropout, drop_block);
  fields.kind_table("expert", ffn_dropout, expert_dropout);
  fields.add_newer("attention", &attention,
                   "where queries, keys and values come from: one projection, or in some layers a mixture of them",
                   one_of({"plain", "mixture"}));
  fields.kind_table("mixture", attention, mixture);
}

void ModelSpec::check() const {
  require(model.width % 2 == 0, "model.width = ", model.width, " must be even: positions are sines and cosines");
  check_layers(model.moe_layers, "model.moe_layers", model.layers);
  if (model.attention == "mixture") check_layers(model.mixture.layers, "model.mixture.layers", model.layers);
  if (has_mixture_attention()) check_mixture_attention(model.mixture, moe);
  require(vocabulary >= 1, "the vocabulary is empty");
  const double parameters = parameter_estimate(*this);
  require(parameters <= kMostParameters, "the model would have about ", parameters, " parameters, and more than ",
          kMostParameters,
          " are a slip: see model.width, model.heads, model.head_width, model.ffn_width, moe.experts, ",
          "moe.expert_width and model.mixture.experts");
  require(model.ffn_dropout == "plain" || has_dense(), "model.ffn_dropout = \"", model.ffn_dropout,
          "\" is for layers that are no mixtures, and there is none: set model.moe_layers, or model.ffn_dropout to "
          "\"plain\"");
  if (has_moe() || has_mixture_attention()) moe.check();
}

bool ModelSpec::has_mixture_attention(int64_t layer) const {
  return model.attention == "mixture" && model.mixture.layers.contains(layer);
}

bool ModelSpec::has_mixture_attention() const {
  return model.attention == "mixture" && (model.mixture.layers.all || !model.mixture.layers.ids.empty());
}

bool ModelSpec::has_moe() const { return model.moe_layers.all || !model.moe_layers.ids.empty(); }

bool ModelSpec::has_dense() const {
  for (int64_t layer = 0; layer < model.layers; ++layer) {
    if (!model.moe_layers.contains(layer)) return true;
  }
  return false;
}

}  // namespace smoe
