// Settings of the mixture-of-experts layers.
#pragma once

#include <cstdint>
#include <string>

#include "smoe/base/config.h"
#include "smoe/moe/routers/settings.h"

namespace smoe {

/// The table [moe] of a recipe.
struct MoeConfig {
  int64_t experts = 16;
  int64_t expert_width = 512;
  std::string expert_kind = "ffn";
  std::string activation = "relu";
  int64_t shared_experts = 0;
  int64_t null_experts = 0, copy_experts = 0, constant_experts = 0;
  int64_t shared_width = 0;
  double network_share = 1;
  std::string router = "random_frozen";
  double router_init_std = 0.02;
  double capacity_factor = 0;
  double eval_capacity_factor = 0;
  std::string drop_priority = "position";
  RouterSettings routers;

  void describe(Fields& fields);
  /// How many of the experts are networks; they have the first ids.
  int64_t networks() const { return experts - null_experts - copy_experts - constant_experts; }
  /// Throws UserError where fields contradict each other.
  void check() const;
};

}  // namespace smoe
