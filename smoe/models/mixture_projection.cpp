#include "smoe/models/mixture_projection.h"

#include "smoe/kernels/dispatch.h"
#include "smoe/kernels/expert_gemm.h"

namespace smoe {

MixtureProjection::MixtureProjection(const MoeConfig& moe, int64_t experts, int64_t k, int64_t width, int64_t out,
                                     double init_std, const RandomStream& random)
    : k_(k) {
  MoeConfig config = moe;
  config.experts = experts;
  router_ = register_module("router", find_router_kind(config.router).make(config, width, random.at("router")));
  weight_ = register_parameter("weight", random.at("weight").normal({experts, out, width}, 0, init_std));
  bias_ = register_parameter("bias", random.zeros({experts, out}));
}

at::Tensor MixtureProjection::forward(const at::Tensor& x, RouteInput route, Precision precision) {
  route.x = x;
  route.k = k_;
  route.batch = {};
  route.state = at::Tensor();
  const Routing routing = router_->route(route);
  const Dispatched grouped = dispatch(to_compute(x, precision), routing.expert, weight_.size(0));
  return combine(expert_gemm(grouped.rows, grouped.plan.offsets, weight_, bias_), routing.weight, grouped.plan);
}

double MixtureProjection::flops_per_token() const {
  const double matrix = 2.0 * static_cast<double>(weight_.size(1)) * static_cast<double>(weight_.size(2));
  return static_cast<double>(router_->flops_per_token()) + static_cast<double>(k_) * matrix;
}

}  // namespace smoe
