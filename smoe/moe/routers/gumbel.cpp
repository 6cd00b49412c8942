#include "smoe/moe/routers/gumbel.h"

#include <ATen/ops/arange.h>

namespace smoe {

at::Tensor gumbel_like(const at::Tensor& scores, const RandomStream& random) {
  const at::Tensor rows = at::arange(scores.size(0), scores.options().dtype(at::kLong).requires_grad(false));
  const at::Tensor u = random.uniform_rows(rows, scores.size(1)).to(at::kDouble);
  return (-(1e-10 - (u + 1e-10).log()).log()).to(scores.scalar_type());
}

}  // namespace smoe
