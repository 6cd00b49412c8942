#include "smoe/moe/routers/permutation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/nan_to_num.h>

#include <limits>

#include "smoe/base/error.h"

namespace smoe {

at::Tensor sinkhorn(const at::Tensor& logits, int64_t rounds) {
  at::Tensor logs = logits;
  for (int64_t i = 0; i < rounds; ++i) {
    logs = logs - at::logsumexp(logs, 2, /*keepdim=*/true);
    logs = logs - at::logsumexp(logs, 1, /*keepdim=*/true);
  }
  return logs.exp();
}

std::vector<int64_t> best_assignment(const at::Tensor& scores) {
  require(scores.dim() == 2 && scores.size(0) == scores.size(1), "an assignment needs scores [n, n], got ",
          scores.sizes());
  const auto n = static_cast<size_t>(scores.size(0));
  const at::Tensor values =
      scores.detach().to(at::kCPU, at::kDouble).nan_to_num(0, 1e30, -1e30).clamp(-1e30, 1e30).contiguous();
  const double* score = values.const_data_ptr<double>();
  // Rows are added one by one, each along the cheapest path of changes; cost is −score less the two potentials. Row and
  // column 0 stand for nobody.
  std::vector<double> of_row(n + 1, 0), of_column(n + 1, 0);
  std::vector<size_t> row_of(n + 1, 0), came_from(n + 1, 0);
  for (size_t row = 1; row <= n; ++row) {
    std::vector<double> distance(n + 1, std::numeric_limits<double>::infinity());
    std::vector<bool> done(n + 1, false);
    row_of[0] = row;
    size_t column = 0;
    do {
      done[column] = true;
      const size_t from = row_of[column];
      size_t next = 0;
      double least = std::numeric_limits<double>::infinity();
      for (size_t j = 1; j <= n; ++j) {
        if (done[j]) continue;
        const double cost = -score[(from - 1) * n + (j - 1)] - of_row[from] - of_column[j];
        if (cost < distance[j]) {
          distance[j] = cost;
          came_from[j] = column;
        }
        if (distance[j] < least) {
          least = distance[j];
          next = j;
        }
      }
      for (size_t j = 0; j <= n; ++j) {
        if (done[j]) {
          of_row[row_of[j]] += least;
          of_column[j] -= least;
        } else {
          distance[j] -= least;
        }
      }
      column = next;
    } while (row_of[column] != 0);
    for (; column != 0; column = came_from[column]) row_of[column] = row_of[came_from[column]];
  }
  std::vector<int64_t> column_of(n, 0);
  for (size_t j = 1; j <= n; ++j) column_of[row_of[j] - 1] = static_cast<int64_t>(j) - 1;
  return column_of;
}

}  // namespace smoe
