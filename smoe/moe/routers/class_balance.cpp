#include "smoe/moe/routers/class_balance.h"

#include <ATen/TensorOperators.h>

#include <algorithm>

namespace smoe {

Balance balance_of(const at::Tensor& expert, const Probabilities& probabilities, const at::Tensor& valid) {
  at::Tensor ids = expert, p = probabilities.value;
  double tokens = static_cast<double>(p.size(0));
  if (valid.defined()) {
    const at::Tensor padding = valid.logical_not().unsqueeze(1);
    ids = ids.masked_fill(padding, -1);
    p = p.masked_fill(padding, 0);
    tokens = valid.sum().item<double>();
  }
  const at::Tensor count = ids.masked_select(ids.ge(0)).to(at::kLong).bincount({}, p.size(1)).to(p.scalar_type());
  return {count / count.sum().clamp_min(1), p.sum(0) / std::max(tokens, 1.0)};
}

Selection without(const Selection& selection, int64_t first, int64_t count) {
  const at::Tensor gone = selection.expert.ge(first).logical_and(selection.expert.lt(first + count));
  return {selection.expert.masked_fill(gone, -1), selection.score};
}

}  // namespace smoe
