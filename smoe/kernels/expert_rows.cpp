#include "smoe/kernels/expert_rows.h"

#include <limits>

#include "smoe/base/error.h"

namespace smoe {
namespace {

template <class Id>
ExpertRows group(const Id* id, int64_t tokens, int64_t slots, int64_t experts) {
  const auto is_used = [experts](Id e) { return e >= 0 && e < experts; };
  ExpertRows out;
  out.tokens = tokens;
  out.slots = slots;
  out.first.assign(static_cast<size_t>(experts) + 1, 0);
  for (int64_t i = 0; i < tokens * slots; ++i) {
    if (is_used(id[i])) ++out.first[static_cast<size_t>(id[i]) + 1];
  }
  for (size_t e = 1; e < out.first.size(); ++e) out.first[e] += out.first[e - 1];
  const auto rows = static_cast<size_t>(out.rows());
  out.token.resize(rows);
  out.slot.resize(rows);
  std::vector<int64_t> next(out.first.begin(), out.first.end() - 1);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t s = t * slots; s < (t + 1) * slots; ++s) {
      if (!is_used(id[s])) continue;
      const auto row = static_cast<size_t>(next[static_cast<size_t>(id[s])]++);
      out.token[row] = static_cast<int32_t>(t);
      out.slot[row] = s;
    }
  }
  // Rows are in ascending expert id, so a second walk over them meets each token's in that order too.
  out.token_first.assign(static_cast<size_t>(tokens) + 1, 0);
  for (const int32_t t : out.token) ++out.token_first[static_cast<size_t>(t) + 1];
  for (size_t t = 1; t < out.token_first.size(); ++t) out.token_first[t] += out.token_first[t - 1];
  out.token_row.resize(rows);
  std::vector<int64_t> place(out.token_first.begin(), out.token_first.end() - 1);
  for (size_t row = 0; row < rows; ++row) {
    out.token_row[static_cast<size_t>(place[static_cast<size_t>(out.token[row])]++)] = static_cast<int32_t>(row);
  }
  return out;
}

}  // namespace

std::vector<int64_t> ExpertRows::chosen() const {
  std::vector<int64_t> out;
  for (int64_t e = 0; e < experts(); ++e) {
    if (rows_of(e) > 0) out.push_back(e);
  }
  return out;
}

ExpertRows group_by_expert(const at::Tensor& expert, int64_t experts) {
  require(expert.dim() == 2 && expert.is_cpu(), "group_by_expert: expert must be [T, K] on the CPU, got ",
          expert.sizes());
  require(expert.numel() <= std::numeric_limits<int32_t>::max(), "group_by_expert: ", expert.numel(),
          " slots are too many for one call; cut the tokens into several");
  const at::Tensor ids = expert.contiguous();
  const int64_t tokens = ids.size(0), slots = ids.size(1);
  return ids.scalar_type() == at::kInt ? group(ids.const_data_ptr<int32_t>(), tokens, slots, experts)
                                       : group(ids.const_data_ptr<int64_t>(), tokens, slots, experts);
}

}  // namespace smoe
