#include "smoe/moe/select.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/topk.h>

#include <limits>

#include "smoe/base/error.h"

namespace smoe {

int64_t ActiveK::max() const {
  if (!per_token.defined()) return uniform;
  return per_token.numel() == 0 ? 0 : per_token.max().item<int64_t>();
}

Selection select_top_k(const at::Tensor& scores, const ActiveK& k) {
  const int64_t tokens = scores.size(0), experts = scores.size(1);
  if (!k.per_token.defined()) {
    require(k.uniform >= 1 && k.uniform <= experts, "k must be between 1 and the number of experts, ", experts,
            ", got ", k.uniform);
    auto [score, expert] = at::topk(scores, k.uniform, -1);
    return {expert.to(at::kInt), score};
  }
  require(k.per_token.sizes() == at::IntArrayRef({tokens}), "k per token must be [T = ", tokens, "], got ",
          k.per_token.sizes());
  const int64_t largest = k.max();
  require(tokens == 0 || (k.per_token.min().item<int64_t>() >= 0 && largest <= experts),
          "k per token must be between 0 and the number of experts, ", experts);
  auto [score, expert] = at::topk(scores, largest, -1);
  const at::Tensor slot = at::arange(largest, k.per_token.options()).unsqueeze(0);  // [1, K]
  return {expert.to(at::kInt).masked_fill(slot.ge(k.per_token.unsqueeze(1)), -1), score};
}

at::Tensor softmax_over_selected(const Selection& selection) {
  const at::Tensor empty = selection.expert.lt(0);
  if (!empty.any().item<bool>()) return at::softmax(selection.score, -1);
  // A token without any expert keeps its scores, since a softmax over nothing would be NaN, and is zeroed after.
  const at::Tensor hidden = empty.logical_and(empty.all(-1, /*keepdim=*/true).logical_not());
  const at::Tensor masked = selection.score.masked_fill(hidden, -std::numeric_limits<double>::infinity());
  return at::softmax(masked, -1).masked_fill(empty, 0);
}

}  // namespace smoe
