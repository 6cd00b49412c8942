#include "smoe/moe/routers/smooth_tree.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <vector>

namespace smoe {

at::Tensor smooth_step(const at::Tensor& t, double gamma) {
  // The same polynomial in u = t/γ + 1/2, where it is u² (3 − 2u): no rounding takes it out of [0, 1].
  const at::Tensor u = (t / gamma + 0.5).clamp(0, 1);
  return u * u * (3 - 2 * u);
}

at::Tensor leaf_probabilities(const at::Tensor& left) {
  const int64_t splits = left.size(2);
  at::Tensor reached = at::ones({left.size(0), left.size(1), 1}, left.options().requires_grad(false));
  std::vector<at::Tensor> leaves;
  // A level's splits have the first of its nodes; its leaves come before those of the next.
  for (int64_t first = 0, size = 1; size > 0;) {
    const int64_t inner = std::clamp<int64_t>(splits - first, 0, size);
    leaves.push_back(reached.narrow(2, inner, size - inner));
    const at::Tensor here = reached.narrow(2, 0, inner), goes_left = left.narrow(2, std::min(first, splits), inner);
    reached = at::stack({here * goes_left, here * (1 - goes_left)}, -1).flatten(2);
    first += size;
    size = 2 * inner;
  }
  return at::cat(leaves, 2);
}

}  // namespace smoe
