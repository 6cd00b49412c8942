// A routing from the experts' side: which tokens each expert takes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace smoe {

/// The slots of a routing grouped by expert, R rows in all; an expert's rows are in the order of their tokens.
struct ExpertRows {
  int64_t tokens = 0, slots = 0;     ///< T, K
  std::vector<int64_t> first;        ///< [E + 1] first row of each expert; the last entry is R
  std::vector<int32_t> token;        ///< [R] the row's token
  std::vector<int64_t> slot;         ///< [R] where the row stands in the routing, t · K + s
  std::vector<int64_t> token_first;  ///< [T + 1] where a token's rows begin in token_row
  std::vector<int32_t> token_row;    ///< [R] the rows of each token, in ascending expert id

  int64_t experts() const { return static_cast<int64_t>(first.size()) - 1; }
  int64_t rows() const { return first.back(); }
  int64_t rows_of(int64_t e) const { return first[static_cast<size_t>(e) + 1] - first[static_cast<size_t>(e)]; }
  std::vector<int64_t> chosen() const;  ///< the experts that have rows, in ascending id
};

/// Groups the slots of expert [T, K], int32 or int64 on the CPU. Ids outside [0, experts) are empty slots. Throws
/// UserError for more than 2³¹ − 1 rows.
ExpertRows group_by_expert(const at::Tensor& expert, int64_t experts);

}  // namespace smoe
