#include "smoe/moe/routers/linear_router.h"

#include <ATen/ops/arange.h>

#include "smoe/kernels/row_linear.h"

namespace smoe {

LinearRouter::LinearRouter(const MoeConfig& config, int64_t width, const RandomStream& random) {
  weight_ =
      register_parameter("weight", random.at("weight").normal({config.experts, width}, 0, config.router_init_std));
}

Logits LinearRouter::score(const at::Tensor& x) const { return {row_linear(x, weight_, {})}; }

at::Tensor jittered(const RouteInput& input, double jitter) {
  if (!input.training || jitter == 0) return input.x;
  const at::Tensor rows = at::arange(input.x.size(0), input.x.options().dtype(at::kLong).requires_grad(false));
  const at::Tensor uniform = input.random.at("jitter").uniform_rows(rows, input.x.size(1));
  return input.x * (uniform * (2 * jitter) + (1 - jitter)).to(input.x.scalar_type());
}

}  // namespace smoe
