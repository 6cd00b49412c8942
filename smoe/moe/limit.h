// Limit: an expert's capacity, applied to a routing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "smoe/moe/routing.h"

namespace smoe {

/// A routing with the assignments over capacity taken out, and how many of each expert's those were.
struct Limited {
  Routing routing;
  at::Tensor dropped;  ///< int64 [E]
};

/// Whose assignments an expert at its capacity keeps.
enum class DropPriority {
  kPosition,  ///< earlier tokens first, a token's slots in their order
  kChoice,    ///< every token's first slot before any token's second (GShard)
  kScore,     ///< the largest weights first, earlier ones among equals
};

/// "position", "choice", "score".
std::vector<std::string> drop_priority_names();

/// Throws UserError for another name.
DropPriority parse_drop_priority(const std::string& name);

/// Keeps `capacity` assignments of each expert, those that `priority` puts first; the rest become empty slots with weight
/// 0. Weights that stay are not renormalised. Tokens that `valid` (bool [T], may be undefined) masks out as padding take
/// no place: their slots become empty without counting as dropped. A negative capacity is no limit.
Limited limit(const Routing& routing, int64_t experts, int64_t capacity, DropPriority priority,
              const at::Tensor& valid = {});

/// The same with a capacity for each expert, [E].
Limited limit(const Routing& routing, const std::vector<int64_t>& capacities, DropPriority priority,
              const at::Tensor& valid = {});

/// limit() with earlier tokens first.
Limited limit_by_position(const Routing& routing, int64_t experts, int64_t capacity, const at::Tensor& valid = {});

/// A layer's capacity.
struct Capacity {
  double factor = 0;       ///< of the even share T·K/E; 0: no limit
  double eval_factor = 0;  ///< the same at evaluation; 0: as in training
  DropPriority priority = DropPriority::kPosition;
  double network_share = 1;  ///< of the tokens, as a multiple of the share of an expert that is no network
};

/// ceil(factor · T · k / E), or −1 (no limit) for factor 0.
int64_t capacity_of(double factor, int64_t tokens, int64_t k, int64_t experts);

/// ceil(factor · T · k · s_e / Σ s) for each expert, s the shares [E]: where they are τ for networks and 1 for the others,
/// the capacities of MoE++ (Jin et al., ICLR 2025, eq. 8) times k, since a token makes k assignments. factor > 0.
std::vector<int64_t> capacities_of(double factor, int64_t tokens, int64_t k, const std::vector<double>& shares);

}  // namespace smoe
