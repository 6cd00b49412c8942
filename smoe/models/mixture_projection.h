// Mixture attention: the projection to queries, keys and values as a mixture of linear maps (Chen et al., ICLR 2023, the
// released code's attn_moe).
#pragma once

#include <torch/nn/module.h>

#include <memory>

#include "smoe/kernels/pass_memory.h"
#include "smoe/moe/config.h"
#include "smoe/moe/router.h"
#include "smoe/tensor/precision.h"

namespace smoe {

/// y = Σ_e w_e · (W_e x + b_e) over the k experts that the router picks, W [E, O, D] ~ Normal(0, std²), b [E, O] = 0. k is
/// the projection's own and does not follow the model's dial. A router that is trained learns through w_e alone, which at
/// k = 1 takes one whose weights are not normalised over the selected.
class MixtureProjection : public torch::nn::Module {
 public:
  /// Of `moe` the router's settings count, for `experts` experts from `width` to `out` numbers.
  MixtureProjection(const MoeConfig& moe, int64_t experts, int64_t k, int64_t width, int64_t out, double init_std,
                    const RandomStream& random);

  /// x [T, D] → [T, O] in the dtype of products; of `route` everything but x, k, the batch and the state counts. A row's
  /// bits depend on that row and the parameters alone.
  at::Tensor forward(const at::Tensor& x, RouteInput route, Precision precision);

  Router& router() { return *router_; }
  const Router& router() const { return *router_; }
  /// Forward floating-point operations per token (router and matrices).
  double flops_per_token() const;
  /// Parameters that a token does not touch.
  int64_t idle_parameters() const {
    return (weight_.size(0) - k_) * (weight_.numel() + bias_.numel()) / weight_.size(0);
  }
  /// What a forward of `tokens` tokens takes with its output, with `training` its backward pass too.
  PassMemory pass_memory(int64_t tokens, Precision precision, bool training) const;

 private:
  int64_t k_;
  std::shared_ptr<Router> router_;
  at::Tensor weight_, bias_;
};

}  // namespace smoe
