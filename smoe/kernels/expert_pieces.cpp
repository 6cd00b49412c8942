#include "smoe/kernels/expert_pieces.h"

#include <algorithm>
#include <numeric>

#include "smoe/kernels/block_tiles.h"

namespace smoe {
namespace {

constexpr int64_t kShares = 8;  // an expert with at least two of as many shares of all rows is cut

}  // namespace

ExpertPieces cut_into_pieces(const ExpertRows& rows, int64_t H, int64_t step) {
  ExpertPieces out;
  out.first.push_back(0);
  for (int64_t e = 0; e < rows.experts(); ++e) {
    const int64_t count = rows.rows_of(e);
    const int64_t shares = std::max<int64_t>(1, count * kShares / std::max<int64_t>(1, rows.rows()));
    const int64_t width = round_up(ceil_div(H, shares), step);
    for (int64_t h = 0; count > 0 && h < H; h += width) {
      out.all.push_back({e, h, std::min(h + width, H), out.rows});
      out.rows += round_up(count, 8);
    }
    out.first.push_back(out.all.size());
  }
  out.order.resize(out.all.size());
  std::iota(out.order.begin(), out.order.end(), size_t{0});
  const auto work = [&](size_t i) { return rows.rows_of(out.all[i].e) * out.all[i].width(); };
  std::stable_sort(out.order.begin(), out.order.end(), [&](size_t a, size_t b) { return work(a) > work(b); });
  return out;
}

}  // namespace smoe
