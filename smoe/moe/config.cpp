#include "smoe/moe/config.h"

#include "smoe/base/error.h"
#include "smoe/kernels/activation.h"
#include "smoe/moe/experts.h"
#include "smoe/moe/limit.h"
#include "smoe/moe/router.h"

namespace smoe {

void MoeConfig::describe(Fields& fields) {
  std::vector<std::string> router_names, kinds;
  for (const RouterKind& kind : router_kinds()) router_names.push_back(kind.name);
  for (const ExpertKind& kind : expert_kinds()) {
    if (kind.count == nullptr) kinds.push_back(kind.name);
  }
  fields.add("experts", &experts, "routed experts of a layer (E), those that are no networks among them", at_least(1));
  fields.add("expert_width", &expert_width, "hidden width of an expert (H)", at_least(1));
  fields.add("expert_kind", &expert_kind, "what an expert computes", one_of(kinds));
  fields.add("activation", &activation, "activation of the experts and of dense feed-forward layers",
             one_of(activation_names()));
  fields.add("shared_experts", &shared_experts, "always-on experts beside the routed ones, outside E", at_least(0));
  for (const ExpertKind& kind : expert_kinds()) {
    if (kind.count == nullptr) continue;
    fields.add_newer(kind.name + "_experts", &(this->*kind.count),
                     "how many of the experts are no networks but " + kind.summary, at_least(0));
  }
  fields.add_newer("shared_width", &shared_width, "hidden width of a shared expert; 0: that of the others",
                   at_least(0));
  fields.add_newer("network_share", &network_share,
                   "share of the tokens that a network is to take, as a multiple of that of an expert that is none; "
                   "capacities follow it",
                   above(0));
  fields.add("router", &router, "which experts a token goes to", one_of(router_names));
  fields.add("router_init_std", &router_init_std, "standard deviation of the router's initial weights", above(0));
  fields.add("capacity_factor", &capacity_factor,
             "most tokens an expert takes, as a multiple of the even share T·k/E; 0: no limit", at_least(0));
  fields.add("eval_capacity_factor", &eval_capacity_factor,
             "capacity_factor at evaluation; 0: as in training, E or more: no limit", at_least(0));
  fields.add(
      "drop_priority", &drop_priority,
      "which tokens an expert at its capacity keeps: earlier ones, those it is the first choice of, or those with "
      "the largest weights",
      one_of(drop_priority_names()));
  routers.describe(fields, router);
}

void MoeConfig::check() const {
  require(
      networks() >= 1, "moe.experts = ", experts, " leaves no network beside ", experts - networks(),
      " experts of other kinds (moe.null_experts, moe.copy_experts, moe.constant_experts), which it counts too: it ",
      "must be larger");
  require(network_share == 1 || networks() < experts, "moe.network_share = ", network_share,
          " needs experts that are no networks: set moe.null_experts, moe.copy_experts or moe.constant_experts, or ",
          "moe.network_share to 1");
  const RouterKind& kind = find_router_kind(router);
  if (kind.check != nullptr) kind.check(*this);
}

}  // namespace smoe
