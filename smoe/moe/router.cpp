#include "smoe/moe/router.h"

#include "smoe/base/error.h"
#include "smoe/base/suggest.h"
#include "smoe/moe/routers/kinds.h"

namespace smoe {

std::string dial_name(Dial dial) {
  switch (dial) {
    case Dial::kNone: return "none";
    case Dial::kK: return "k";
    case Dial::kThreshold: return "threshold";
    case Dial::kCapacity: return "capacity";
    case Dial::kSamples: return "samples";
  }
  throw Failure("dial_name: no such dial");
}

bool has_whole_values(Dial dial) { return dial == Dial::kK || dial == Dial::kSamples; }

void Router::after_update(const LayerStats&) {}

const std::vector<RouterKind>& router_kinds() {
  static const std::vector<RouterKind> kKinds = {
      random_frozen_kind(), learned_kind(),         switch_kind(),       gshard_kind(),        noisy_topk_kind(),
      hash_kind(),          top_p_kind(),           random_token_kind(), expert_choice_kind(), thor_kind(),
      drop_gate_kind(),     dense_to_sparse_kind(), adamoe_kind(),       moe_pp_kind(),        rmoe_kind(),
      comet_kind(),         evomoe_kind(),          post_moe_kind(),
  };
  return kKinds;
}

const RouterKind& find_router_kind(const std::string& name) {
  std::vector<std::string> names;
  for (const RouterKind& kind : router_kinds()) {
    if (kind.name == name) return kind;
    names.push_back(kind.name);
  }
  throw UserError("router '" + name + "' is not known" + suggest(name, names));
}

}  // namespace smoe
