// Limit: an expert's capacity, applied to a routing.
#pragma once

#include <cstdint>

#include "smoe/moe/routing.h"

namespace smoe {

/// A routing with the assignments over capacity taken out, and how many of each expert's those were.
struct Limited {
  Routing routing;
  at::Tensor dropped;  ///< int64 [E]
};

/// Keeps the first `capacity` assignments of each expert, earlier tokens first and a token's slots in their order; the
/// rest become empty slots with weight 0. Weights that stay are not renormalised. Tokens that `valid` (bool [T], may be
/// undefined) masks out as padding take no place: their slots become empty without counting as dropped. A negative
/// capacity is no limit.
Limited limit_by_position(const Routing& routing, int64_t experts, int64_t capacity, const at::Tensor& valid = {});

/// ceil(factor · T · k / E), or −1 (no limit) for factor 0.
int64_t capacity_of(double factor, int64_t tokens, int64_t k, int64_t experts);

}  // namespace smoe
