#include "smoe/train/spawn.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>
#include <torch/nn/module.h>

#include <cmath>

#include "smoe/base/error.h"
#include "smoe/models/config.h"
#include "smoe/models/model_folder.h"
#include "smoe/models/model_parts.h"
#include "smoe/moe/router.h"

namespace smoe {
namespace {

/// Makes the copies of a matrix, values [E, …], different.
void diversify(const at::Tensor& values, const SpawnConfig& config, const RandomStream& random) {
  if (config.diversify == "none" || config.amount == 0) return;
  if (config.diversify == "noise") {
    const at::Tensor noise = at::empty_like(values);
    random.fill_normal(noise, 0, 1);
    values.add_(noise * (config.amount * values[0].std(/*unbiased=*/false)));
    return;
  }
  const int64_t rows = values.size(0) * values.size(1);
  const at::Tensor ids = at::arange(rows, values.options().dtype(at::kLong).requires_grad(false));
  const at::Tensor masked = random.uniform_rows(ids, values.numel() / rows).lt(config.amount);
  values.masked_fill_(masked.view(values.sizes()), 0);
}

}  // namespace

void SpawnConfig::describe(Fields& fields) {
  fields.add_newer("at", &at,
                   "share of the training after which each mixture's one expert becomes all of them; 0: they are all "
                   "there from the start",
                   between(0, 1));
  fields.add_newer(
      "diversify", &diversify,
      "how the copies of that expert are made different: some elements of their matrices become 0, all get "
      "noise, or they stay equal",
      one_of({"mask", "noise", "none"}));
  fields.add_newer(
      "amount", &amount,
      "share of the elements that become 0; of noise, its standard deviation as a multiple of the matrix's",
      between(0, 1));
}

void SpawnConfig::check(const ModelSpec& spec, int64_t devices) const {
  if (!is_on()) return;
  const auto refuse_unless = [this](bool fits, const auto&... why) {
    require(fits, "spawn.at = ", at, ", but ", why..., "; leave it at 0");
  };
  refuse_unless(spec.has_moe(), "the model has no mixtures");
  refuse_unless(spec.moe.networks() == spec.moe.experts, "the mixtures have experts that are no networks, which one ",
                "expert at first leaves no room for");
  const Dial dial = find_router_kind(spec.moe.router).traits.dial;
  refuse_unless(dial == Dial::kNone || dial == Dial::kK || dial == Dial::kThreshold, "the dial of the router '",
                spec.moe.router, "', ", dial_name(dial), ", has no meaning with one expert");
  refuse_unless(!find_router_kind(spec.moe.router).traits.families, "the router '", spec.moe.router,
                "' sends families of languages to experts of their own");
  refuse_unless(devices == 1, "losses.devices = ", devices, " does not divide one expert");
}

int64_t SpawnConfig::step(int64_t steps) const { return std::llround(at * static_cast<double>(steps)); }

ModelSpec SpawnConfig::spec_at(ModelSpec spec, int64_t step, int64_t steps) const {
  if (is_on() && step < this->step(steps)) spec.moe.experts = 1;
  return spec;
}

void spawn(const torch::nn::Module& one, torch::nn::Module& many, const SpawnConfig& config,
           const RandomStream& random) {
  const at::NoGradGuard no_grad;
  const auto before = one.named_parameters();
  for (const auto& [name, value] : named_tensors(many)) {
    const at::Tensor* const own = before.find(name);
    const bool is_expert = part_of(name) == "experts";
    if (own == nullptr || (!is_expert && own->sizes() != value.sizes())) continue;  // a router's, as it was drawn
    value.copy_(own->expand_as(value));
    if (is_expert && value.dim() > 2) diversify(value, config, random.at(name));
  }
}

}  // namespace smoe
