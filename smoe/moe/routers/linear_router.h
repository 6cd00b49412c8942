// What routers with a linear score share.
#pragma once

#include "smoe/moe/router.h"

namespace smoe {

/// A router whose logits are W x, W [E, D] ~ Normal(0, std²), trainable.
class LinearRouter : public Router {
 public:
  int64_t flops_per_token() const override { return 2 * weight_.numel(); }

 protected:
  LinearRouter(const MoeConfig& config, int64_t width, const RandomStream& random);

  /// Score: x [T, D] → [T, E]; a row's bits depend on that row alone.
  Logits score(const at::Tensor& x) const;

  at::Tensor weight_;
};

/// x times a number from [1 − jitter, 1 + jitter] for each of its elements, in training; x itself otherwise (Fedus et al.,
/// JMLR 2022, app. C).
at::Tensor jittered(const RouteInput& input, double jitter);

}  // namespace smoe
