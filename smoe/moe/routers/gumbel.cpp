#include "smoe/moe/routers/gumbel.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>

#include "smoe/base/error.h"

namespace smoe {

at::Tensor gumbel_like(const at::Tensor& scores, const RandomStream& random) {
  const at::Tensor rows = at::arange(scores.size(0), scores.options().dtype(at::kLong).requires_grad(false));
  const at::Tensor u = random.uniform_rows(rows, scores.size(1)).to(at::kDouble);
  return (-(1e-10 - (u + 1e-10).log()).log()).to(scores.scalar_type());
}

void check_cooling(const std::string& kind, double max_temperature, double min_temperature) {
  require(min_temperature <= max_temperature, "moe.", kind, ".min_temperature = ", min_temperature,
          " is larger than moe.", kind, ".max_temperature = ", max_temperature,
          ": the temperature falls, or stays where the two are the same");
}

}  // namespace smoe
