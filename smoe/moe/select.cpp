#include "smoe/moe/select.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/topk.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "smoe/base/error.h"

namespace smoe {
namespace {

/// The `count` largest of each row in falling order, and their places.
std::tuple<at::Tensor, at::Tensor> largest_of(const at::Tensor& scores, int64_t count, Ties ties) {
  if (ties == Ties::kAny) return at::topk(scores, count, -1);
  const auto [score, place] = at::sort(scores, /*stable=*/true, /*dim=*/-1, /*descending=*/true);
  return {score.narrow(-1, 0, count), place.narrow(-1, 0, count)};
}

}  // namespace

int64_t ActiveK::max() const {
  if (!per_token.defined()) return uniform;
  return per_token.numel() == 0 ? 0 : per_token.max().item<int64_t>();
}

Probabilities softmax_over_all(const Logits& logits) { return {at::softmax(logits.value, -1)}; }

Selection select_top_k(const at::Tensor& scores, const ActiveK& k, Ties ties) {
  const int64_t tokens = scores.size(0), experts = scores.size(1);
  if (!k.per_token.defined()) {
    require(k.uniform >= 1 && k.uniform <= experts, "k must be between 1 and the number of experts, ", experts,
            ", got ", k.uniform);
    auto [score, expert] = largest_of(scores, k.uniform, ties);
    return {expert.to(at::kInt), score};
  }
  require(k.per_token.sizes() == at::IntArrayRef({tokens}), "k per token must be [T = ", tokens, "], got ",
          k.per_token.sizes());
  const int64_t largest = k.max();
  require(tokens == 0 || (k.per_token.min().item<int64_t>() >= 0 && largest <= experts),
          "k per token must be between 0 and the number of experts, ", experts);
  auto [score, expert] = largest_of(scores, largest, ties);
  const at::Tensor slot = at::arange(largest, k.per_token.options()).unsqueeze(0);  // [1, K]
  return {expert.to(at::kInt).masked_fill(slot.ge(k.per_token.unsqueeze(1)), -1), score};
}

Selection select_top_p(const Probabilities& probabilities, double threshold) {
  require(threshold > 0 && threshold <= 1, "the threshold of top-p must be above 0 and at most 1, got ", threshold);
  const auto [score, expert] = at::sort(probabilities.value, /*stable=*/true, /*dim=*/-1, /*descending=*/true);
  if (threshold == 1) return {expert.to(at::kInt), score};
  // An expert is taken while those before it have not reached the threshold; the first one always is.
  const at::Tensor before = at::cumsum(score.detach(), -1) - score.detach();
  const at::Tensor slot = at::arange(score.size(1), expert.options());
  const at::Tensor taken = before.lt(threshold).logical_or(slot.eq(0));
  const int64_t most = score.size(0) == 0 ? 1 : taken.sum(-1).max().item<int64_t>();
  const at::Tensor ids = expert.to(at::kInt).masked_fill(taken.logical_not(), -1);
  return {ids.narrow(1, 0, most), score.narrow(1, 0, most)};
}

Selection select_above(const at::Tensor& scores, double threshold) {
  const auto [score, expert] = at::sort(scores, /*stable=*/true, /*dim=*/-1, /*descending=*/true);
  const at::Tensor taken = score.detach().le(threshold).logical_not();
  const int64_t most = score.size(0) == 0 ? 1 : std::max<int64_t>(1, taken.sum(-1).max().item<int64_t>());
  const at::Tensor ids = expert.to(at::kInt).masked_fill(taken.logical_not(), -1);
  return {ids.narrow(1, 0, most), score.narrow(1, 0, most)};
}

Selection with_scores(const at::Tensor& expert, const at::Tensor& scores) {
  return {expert, scores.gather(1, expert.clamp_min(0).to(at::kLong))};
}

at::Tensor weigh_by_score(const Selection& selection) { return selection.score.masked_fill(selection.expert.lt(0), 0); }

at::Tensor weigh_by_share(const Selection& selection) {
  const at::Tensor weight = weigh_by_score(selection), sum = weight.sum(-1, /*keepdim=*/true);
  // Only where nothing is selected, or every score has rounded to nothing, is there no sum to divide by.
  return weight / sum.masked_fill(sum.eq(0), 1);
}

at::Tensor weigh_equally(const at::Tensor& expert, const at::Tensor& like) {
  const at::Tensor taken = expert.ge(0).to(like.scalar_type());
  return taken / taken.sum(-1, /*keepdim=*/true).clamp_min(1);
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
