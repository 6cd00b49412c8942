#include "smoe/moe/experts/slot_weights.h"

#include <ATen/ops/zeros.h>

namespace smoe {

std::vector<at::Tensor> weights_by_expert(const at::Tensor& expert, const at::Tensor& weight, int64_t count) {
  // One column more takes what is empty. Ids are distinct, so that a place has one weight and there is nothing to round.
  const at::Tensor empty = expert.lt(0).logical_or(expert.ge(count));
  const at::Tensor place = expert.masked_fill(empty, count).to(at::kLong);
  const auto options = weight.options().requires_grad(false);
  const at::Tensor dense = at::zeros({expert.size(0), count + 1}, options).scatter_add(1, place, weight);
  return dense.narrow(1, 0, count).split(1, 1);
}

}  // namespace smoe
