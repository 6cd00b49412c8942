#include "smoe/train/upcycle.h"

#include <ATen/core/grad_mode.h>

#include <string>
#include <unordered_map>
#include <vector>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/manifest.h"
#include "smoe/base/sha256.h"
#include "smoe/models/model_parts.h"
#include "smoe/train/evaluate.h"

namespace smoe {
namespace {

/// Settings that make other tensors or another computation of the parts that are no feed-forward blocks.
const std::vector<std::string> kOfModel = {
    "model.kind",      "model.layers",         "model.width",           "model.heads",     "model.head_width",
    "model.attention", "model.mixture.layers", "model.mixture.experts", "model.mixture.k", "moe.activation"};
/// Of what a mixture keeps when it gets null experts.
const std::vector<std::string> kOfMixtures = {"moe.expert_kind",      "moe.expert_width",   "moe.copy_experts",
                                              "moe.constant_experts", "moe.shared_experts", "moe.shared_width"};

/// Throws UserError where one of the settings is another in the two.
void check_same(ModelSpec from, ModelSpec to, const std::vector<std::string>& names) {
  const auto fields_of = [](ModelSpec& spec) {
    Fields fields;
    fields.table("model", spec.model);
    fields.table("moe", spec.moe);
    return fields;
  };
  const Fields before = fields_of(from), after = fields_of(to);
  for (const std::string& name : names) {
    const Field &one = before.find(name), &other = after.find(name);
    if (!one.applies() && !other.applies()) continue;
    require(value_text(one) == value_text(other), name, " is ", value_text(one), " in the model and ",
            value_text(other), " in the recipe; they must be the same");
  }
}

/// What a layer is in the two models.
struct Layer {
  bool was_mixture = false, is_mixture = false;
};

std::vector<Layer> layers_of(const ModelSpec& from, const ModelSpec& to) {
  std::vector<Layer> layers;
  for (int64_t i = 0; i < to.model.layers; ++i) {
    layers.push_back({from.model.moe_layers.contains(i), to.model.moe_layers.contains(i)});
  }
  return layers;
}

void check_fits(const ModelSpec& from, const ModelSpec& to) {
  check_same(from, to, kOfModel);
  require(from.vocabulary == to.vocabulary, "the model has ", from.vocabulary, " tokens, the recipe's data ",
          to.vocabulary);
  bool dense = false, upcycled = false, kept = false;
  const std::vector<Layer> layers = layers_of(from, to);
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto [was, is] = layers[i];
    require(is || !was, "model.moe_layers: layer ", i, " is a mixture in the model and dense in the recipe; a mixture ",
            "does not become one block");
    dense = dense || !is;
    upcycled = upcycled || (is && !was);
    kept = kept || was;
  }
  if (dense) check_same(from, to, {"model.ffn_width"});
  require(!upcycled || to.moe.expert_width == from.model.ffn_width, "moe.expert_width is ", to.moe.expert_width,
          " in the recipe and model.ffn_width ", from.model.ffn_width,
          " in the model; an expert is as wide as the block that it is a copy of");
  require(!upcycled || to.moe.shared_experts == 0, "moe.shared_experts is ", to.moe.shared_experts,
          " in the recipe, which would be added to what the dense block answers; it must be 0");
  if (!kept) return;
  check_same(from, to, kOfMixtures);
  require(from.moe.networks() == to.moe.networks(), "the mixtures have ", from.moe.networks(),
          " networks in the model and ", to.moe.networks(), " in the recipe (moe.experts less those of other kinds); ",
          "only null experts can be added");
  require(from.moe.null_experts <= to.moe.null_experts, "moe.null_experts is ", from.moe.null_experts,
          " in the model and ", to.moe.null_experts, " in the recipe; they can only become more");
}

/// For each expert of a mixture of `to` the one of `from` whose pieces of the router it gets.
std::vector<int64_t> experts_before(const MoeConfig& from, const MoeConfig& to) {
  std::vector<int64_t> ids;
  const int64_t networks = from.networks(), added = to.null_experts - from.null_experts;
  for (int64_t id = 0; id < networks + from.null_experts; ++id) ids.push_back(id);
  for (int64_t i = 0; i < added; ++i) ids.push_back(i % networks);
  for (int64_t id = networks + from.null_experts; id < from.experts; ++id) ids.push_back(id);
  return ids;
}

/// The layer that a parameter is in; nullptr where it is in none.
const Layer* layer_of(const std::string& parameter, const std::vector<Layer>& layers) {
  constexpr std::string_view kLayers = "layers.";
  return parameter.starts_with(kLayers) ? &layers.at(std::stoul(parameter.substr(kLayers.size()))) : nullptr;
}

/// Whether a parameter is of a router whose layer, or all of whose layers, have learnt nothing yet.
bool is_drawn(const std::string& name, const Layer* layer, const ModelSpec& from) {
  const bool of_mixture = layer == nullptr ? name.starts_with("router.") : name.find(".moe.") != std::string::npos;
  return of_mixture && !(layer == nullptr ? from.has_moe() : layer->was_mixture);
}

/// The name that the weights of a mixture's networks had in the dense block.
std::string name_in_block(const std::string& name) {
  constexpr std::string_view kNetworks = ".moe.experts.0.";
  const size_t at = name.find(kNetworks);
  return at == std::string::npos ? "" : name.substr(0, at) + ".ffn." + name.substr(at + kNetworks.size());
}

/// The name that a parameter of a kept mixture had: constant experts, the only other ones with parameters, are in the
/// group behind null and copy experts, where there are any.
std::string name_in_mixture(const std::string& name, const MoeConfig& from) {
  constexpr std::string_view kGroups = ".moe.experts.";
  const size_t at = name.find(kGroups);
  if (at == std::string::npos || name[at + kGroups.size()] == '0') return name;
  const int group = 1 + (from.null_experts > 0 ? 1 : 0) + (from.copy_experts > 0 ? 1 : 0);
  return concat(name.substr(0, at), kGroups, group, name.substr(name.find('.', at + kGroups.size())));
}

/// Every parameter of a kept router must have its place in the other, which else would route as none of the two.
void check_routers(const std::vector<std::string>& before, const torch::nn::Module& after, const std::string& kind) {
  const auto parameters = after.named_parameters();
  for (const std::string& name : before) {
    require(part_of(name) != "router" || parameters.contains(name), "the router '", kind, "' of the recipe has no '",
            name, "', which the model's has learnt");
  }
}

}  // namespace

void check_same_model(const ModelSpec& from, const ModelSpec& to) {
  check_same(from, to, kOfModel);
  const bool mixtures = from.has_moe() || to.has_moe();
  check_same(from, to, {"model.moe_layers"});
  if (from.has_dense()) check_same(from, to, {"model.ffn_width"});
  if (mixtures || from.has_mixture_attention()) check_same(from, to, {"moe.router"});
  if (!mixtures) return;
  check_same(from, to, {"moe.experts", "moe.null_experts"});
  check_same(from, to, kOfMixtures);
}

std::shared_ptr<LanguageModel> upcycle(const LanguageModel& model, const ModelSpec& spec, const RandomStream& random) {
  const ModelSpec& from = model.spec();
  check_fits(from, spec);
  const std::shared_ptr<LanguageModel> made = make_model(spec, random);
  const std::vector<Layer> layers = layers_of(from, spec);
  const std::vector<int64_t> ids = experts_before(from.moe, spec.moe);
  std::unordered_map<std::string, at::Tensor> before;
  std::vector<std::string> names;
  for (const auto& [name, value] : named_tensors(model)) {
    before[name] = value;
    names.push_back(name);
  }
  check_routers(names, *made, spec.moe.router);
  const at::NoGradGuard no_grad;
  for (const auto& [name, value] : named_tensors(*made)) {
    const Layer* layer = layer_of(name, layers);
    const bool drawn = is_drawn(name, layer, from);
    const auto own = before.find(drawn ? name_in_block(name) : name_in_mixture(name, from.moe));
    if (own != before.end() && drawn) {
      value.copy_(own->second.expand_as(value));
    } else if (own != before.end()) {
      const std::optional<at::Tensor> pieces = pick_experts(own->second, value.sizes(), ids, from.moe.experts);
      require(pieces.has_value(), "the router cannot do with more experts: '", name, "' ", own->second.sizes(),
              " has no piece for each of them");
      value.copy_(*pieces);
    } else {
      // What a dropout learns of its own rate is no part of the answer.
      require(drawn || name.find(".ffn.dropout.") != std::string::npos, "the router '", spec.moe.router,
              "' of the recipe has '", name, "', which the model's does not know");
    }
  }
  return made;
}

std::shared_ptr<LanguageModel> upcycle(const LoadedModel& source, const Recipe& recipe) {
  require(source.vocabulary.format() == recipe.data.format, "data.format is \"", source.vocabulary.format(),
          "\" in the model and \"", recipe.data.format, "\" in the recipe; they must be the same");
  const ModelSpec spec = recipe.spawn.spec_at(recipe.spec(source.vocabulary.size()), 0, recipe.train.steps);
  return upcycle(*source.model, spec, RandomStream(static_cast<uint64_t>(recipe.train.seed)).at("weights"));
}

void save_upcycled(const std::filesystem::path& folder, LanguageModel& model, const LoadedModel& source,
                   const Recipe& recipe) {
  const RecordedData data = recorded_data(source.folder);
  nlohmann::ordered_json json{{"format", "smoe-upcycle"}, {"version", 1}, {"step", data.step}};
  json["from"] = {{"path", std::filesystem::absolute(source.folder).lexically_normal().string()},
                  {"manifest_sha256", sha256_file(source.folder / kManifestName)}};
  json["data"] = {{"path", data.path}, {"sha256", data.sha256}};
  json["recipe"] = to_json(Recipe(recipe).fields());
  make_folder_atomic(folder, [&](const std::filesystem::path& temporary) {
    save_model(temporary, model, source.vocabulary, source.lengths);
    write_file_atomic(temporary / "upcycle.json", json.dump(2) + "\n");
  });
}

}  // namespace smoe
