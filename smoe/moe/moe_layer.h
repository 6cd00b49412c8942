// The mixture-of-experts layer: route, limit, mix, shared experts, record.
#pragma once

#include <torch/nn/module.h>

#include <memory>

#include "smoe/moe/config.h"
#include "smoe/moe/experts.h"
#include "smoe/moe/limit.h"
#include "smoe/moe/router.h"
#include "smoe/moe/stats_book.h"

namespace smoe {

/// Replaces a feed-forward block: x [T, D] → [T, D].
class MoeLayer : public torch::nn::Module {
 public:
  /// Router and experts for that place, all weights drawn from `random`.
  MoeLayer(const MoeConfig& config, const RouterPlace& place, double init_std, const RandomStream& random);

  /// A layer of given parts; `shared` may be null.
  MoeLayer(std::shared_ptr<Router> router, std::shared_ptr<Experts> experts, std::shared_ptr<ExpertGroup> shared,
           const Capacity& capacity);

  struct Result {
    at::Tensor y;      ///< [T, D]
    at::Tensor state;  ///< Routing::state, for the MoE layer above
  };

  /// One forward. `book` may be null; otherwise layer `layer`'s statistics are recorded in it.
  Result forward(const RouteInput& input, const MixOptions& options, StatsBook* book, int64_t layer);

  Router& router() { return *router_; }
  const Router& router() const { return *router_; }
  /// Puts another router in the place of this layer's.
  void set_router(std::shared_ptr<Router> router);
  Experts& experts() { return *experts_; }

  /// Forward floating-point operations per token with those routed experts (§5.3's count: router and matrices).
  double flops_per_token(const ActiveExperts& active) const;
  /// Parameters that a token with those routed experts touches.
  double active_parameters(const ActiveExperts& active) const;
  /// How many of those experts are networks.
  double active_networks(const ActiveExperts& active) const;
  /// What a forward of `tokens` tokens takes, with `training` its backward pass too.
  PassMemory pass_memory(int64_t tokens, double active, Precision precision, bool training) const;

 private:
  /// The sum over the groups of routed experts of what `of_group` says, times how many of the group are active.
  double sum_of_active(const ActiveExperts& active, double (*of_group)(const ExpertGroup&)) const;
  Limited limited(const Routing& routing, const RouteInput& input) const;
  at::Tensor shared_output(const at::Tensor& x, const MixOptions& options);

  std::shared_ptr<Router> router_;
  std::shared_ptr<Experts> experts_;
  std::shared_ptr<ExpertGroup> shared_;  // one token takes all of them, each with weight 1
  Capacity capacity_;
};

}  // namespace smoe
