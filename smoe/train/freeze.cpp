#include "smoe/train/freeze.h"

#include <torch/nn/module.h>

#include <cmath>
#include <utility>

#include "smoe/base/error.h"
#include "smoe/models/config.h"
#include "smoe/models/model_parts.h"
#include "smoe/moe/router.h"

namespace smoe {
namespace {

bool belongs_to(const std::string& parameter, const std::string& part) {
  const std::string of = part_of(parameter);
  if (part == "router") return of == "router";
  if (part == "experts") return of == "experts" || of == "shared experts";
  return parameter.starts_with("layers.") && of != "router";
}

}  // namespace

void FreezeConfig::describe(Fields& fields) {
  fields.add_newer("router", &router,
                   "share of the training after which routers are frozen that are trained; 0: from the start, 1: never",
                   between(0, 1));
  fields.add_newer("experts", &experts, "the same for experts, shared ones too", between(0, 1));
  fields.add_newer("layers", &layers, "the same for everything in the layers but their routers", between(0, 1));
}

void FreezeConfig::check(const ModelSpec& spec) const {
  const bool has_routers = spec.has_moe() || spec.has_mixture_attention();
  require(router == 1 || has_routers, "freeze.router = ", router, ", but the model has no mixtures; leave it at 1");
  require(experts == 1 || spec.has_moe(), "freeze.experts = ", experts,
          ", but the model has no experts; leave it at 1");
  require(router == 1 || find_router_kind(spec.moe.router).traits.trainable, "freeze.router = ", router,
          ", but nothing of the router '", spec.moe.router, "' is trained; leave it at 1");
  require(experts == 1 || experts <= layers, "freeze.experts = ", experts, " comes after freeze.layers = ", layers,
          ", which freezes the experts too");
}

std::vector<FrozenPart> frozen_parts(const FreezeConfig& config, int64_t step, int64_t steps) {
  std::vector<FrozenPart> parts;
  for (const auto& [name, share] :
       {std::pair("router", config.router), std::pair("experts", config.experts), std::pair("layers", config.layers)}) {
    const int64_t from = std::llround(share * static_cast<double>(steps));
    if (share < 1 && from <= step) parts.push_back({name, from});
  }
  return parts;
}

std::vector<std::string> freeze(torch::nn::Module& model, const FrozenPart& part) {
  std::vector<std::string> names;
  for (const auto& item : model.named_parameters()) {
    at::Tensor parameter = item.value();
    if (!parameter.requires_grad() || !belongs_to(item.key(), part.name)) continue;
    parameter.requires_grad_(false);
    parameter.mutable_grad() = at::Tensor();
    names.push_back(item.key());
  }
  return names;
}

}  // namespace smoe
