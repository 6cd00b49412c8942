#include "smoe/slim/keep_experts.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <numeric>
#include <unordered_map>
#include <utility>

#include "smoe/base/error.h"
#include "smoe/models/model_folder.h"
#include "smoe/models/model_parts.h"
#include "smoe/moe/moe_layer.h"

namespace smoe {
namespace {

/// The layer of "layers.3.moe.router.weight"; nothing for parameters that are not a mixture's.
std::optional<int64_t> mixture_layer(const std::string& name) {
  constexpr std::string_view kLayers = "layers.";
  const size_t inner = name.find(".moe.");
  if (!name.starts_with(kLayers) || inner == std::string::npos) return std::nullopt;
  return std::stoll(name.substr(kLayers.size(), inner - kLayers.size()));
}

/// The layers that are mixtures, in order.
std::vector<int64_t> mixture_layers(const ModelSpec& spec) {
  std::vector<int64_t> layers;
  for (int64_t layer = 0; layer < spec.model.layers; ++layer) {
    if (spec.model.moe_layers.contains(layer)) layers.push_back(layer);
  }
  return layers;
}

void check_kept(const ExpertIds& kept, size_t mixtures, int64_t experts) {
  require(kept.size() == mixtures, "the model has ", mixtures, " mixtures, experts to keep are named for ",
          kept.size());
  for (const std::vector<int64_t>& ids : kept) {
    require(!ids.empty() && ids.size() == kept[0].size(), "every mixture must keep the same number of experts, at ",
            "least one");
    require(ids.front() >= 0 && ids.back() < experts && std::is_sorted(ids.begin(), ids.end(), std::less_equal<>()),
            "experts to keep must be ascending ids between 0 and ", experts - 1);
  }
}

/// Every kind that scores experts has a row for each in `weight`; the others draw or look up an expert out of E.
void check_router(const LanguageModel& model, int64_t experts) {
  for (const MoeLayer* mixture : model.mixtures()) {
    const auto parameters = mixture->router().named_parameters();
    const at::Tensor* weight = parameters.find("weight");
    require(weight != nullptr && weight->dim() == 2 && weight->size(0) == experts, "the router '",
            model.spec().moe.router, "' cannot do with fewer experts: it has no row for each of them to keep");
  }
}

}  // namespace

void check_can_keep(const LanguageModel& model, int64_t keep) {
  ModelSpec spec = model.spec();
  require(!model.mixtures().empty(), "a dense model has no experts to keep");
  require(spec.moe.networks() == spec.moe.experts,
          "only mixtures whose experts are all networks can be made smaller; this ", "one has ",
          spec.moe.experts - spec.moe.networks(), " others among its ", spec.moe.experts);
  if (keep != spec.moe.experts) check_router(model, spec.moe.experts);
  spec.moe.experts = keep;
  spec.check();
}

ExpertLoads expert_loads(LanguageModel& model, const TokenSequence& text, const EvalLengths& lengths,
                         std::optional<double> dial, const std::string& source) {
  StatsBook book(StatsBook::Detail::kCounts);
  evaluate(model, text, lengths, dial, source, &book);
  ExpertLoads loads;
  for (const LayerStats& layer : book.layers()) {
    const at::Tensor load = layer.load();
    loads.emplace_back(load.const_data_ptr<double>(), load.const_data_ptr<double>() + load.numel());
  }
  return loads;
}

ExpertIds choose_by_load(const ExpertLoads& loads, int64_t keep) {
  ExpertIds kept;
  for (const std::vector<double>& load : loads) {
    require(keep >= 1 && std::cmp_less_equal(keep, load.size()), "experts to keep must be between 1 and ", load.size(),
            ", got ", keep);
    std::vector<int64_t> ids(load.size());
    std::iota(ids.begin(), ids.end(), 0);
    std::stable_sort(ids.begin(), ids.end(),
                     [&](int64_t a, int64_t b) { return load[static_cast<size_t>(a)] > load[static_cast<size_t>(b)]; });
    ids.resize(static_cast<size_t>(keep));
    std::sort(ids.begin(), ids.end());
    kept.push_back(ids);
  }
  return kept;
}

ExpertIds choose_at_random(int64_t mixtures, int64_t experts, int64_t keep, uint64_t seed) {
  require(keep >= 1 && keep <= experts, "experts to keep must be between 1 and ", experts, ", got ", keep);
  ExpertIds kept;
  for (int64_t mixture = 0; mixture < mixtures; ++mixture) {
    const RandomStream random = RandomStream(seed).at("keep experts").at(static_cast<uint64_t>(mixture));
    std::vector<int64_t> ids(static_cast<size_t>(experts));
    std::iota(ids.begin(), ids.end(), 0);
    for (int64_t i = 0; i < keep; ++i) {  // Fisher and Yates' shuffle, as far as it is looked at
      const double u = random.uniform(static_cast<uint64_t>(i));
      const int64_t j = i + static_cast<int64_t>(u * static_cast<double>(experts - i));
      std::swap(ids[static_cast<size_t>(i)], ids[static_cast<size_t>(j)]);
    }
    ids.resize(static_cast<size_t>(keep));
    std::sort(ids.begin(), ids.end());
    kept.push_back(ids);
  }
  return kept;
}

std::shared_ptr<LanguageModel> keep_experts(const LanguageModel& model, const ExpertIds& kept) {
  ModelSpec spec = model.spec();
  const std::vector<int64_t> layers = mixture_layers(spec);
  const int64_t experts = spec.moe.experts;
  check_kept(kept, layers.size(), experts);
  check_can_keep(model, kept.empty() ? 0 : static_cast<int64_t>(kept[0].size()));
  std::unordered_map<int64_t, size_t> mixture_of;
  for (size_t i = 0; i < layers.size(); ++i) mixture_of[layers[i]] = i;

  spec.moe.experts = static_cast<int64_t>(kept[0].size());
  const std::shared_ptr<LanguageModel> slim = make_model(spec, RandomStream(0));
  const NamedTensors whole = named_tensors(model);
  const std::unordered_map<std::string, at::Tensor> by_name(whole.begin(), whole.end());
  const at::NoGradGuard no_grad;
  for (const auto& [name, target] : named_tensors(*slim)) {
    const auto found = by_name.find(name);
    require(found != by_name.end(), "the router cannot do with fewer experts: it would have a parameter '", name,
            "' that the model lacks");
    const std::optional<int64_t> layer = mixture_layer(name);
    const std::vector<int64_t> ids = layer ? kept[mixture_of.at(*layer)] : std::vector<int64_t>();
    const std::optional<at::Tensor> pieces = pick_experts(found->second, target.sizes(), ids, experts);
    require(pieces.has_value(), "the router cannot do with fewer experts: '", name, "' ", found->second.sizes(),
            " has no piece for each of them");
    target.copy_(*pieces);
  }
  return slim;
}

}  // namespace smoe
