#include "smoe/kernels/expert_pieces.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace smoe {
namespace {

ExpertRows rows_with(const std::vector<int64_t>& counts) {
  ExpertRows out;
  out.first = {0};
  for (const int64_t count : counts) out.first.push_back(out.first.back() + count);
  return out;
}

TEST(ExpertPieces, CoverEachExpertOnce) {
  std::mt19937 random(3);
  const auto draw = [&](int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(random);
  };
  for (int round = 0; round < 500; ++round) {
    std::vector<int64_t> counts;
    for (int64_t e = draw(0, 20); e > 0; --e) counts.push_back(draw(0, 3) == 0 ? 0 : draw(1, 300));
    const int64_t H = draw(1, 700), step = 64;
    const ExpertRows rows = rows_with(counts);
    const ExpertPieces pieces = cut_into_pieces(rows, H, step);
    ASSERT_EQ(pieces.first.size(), counts.size() + 1);
    int64_t place = 0;
    for (size_t e = 0; e < counts.size(); ++e) {
      int64_t column = 0;
      for (size_t p = pieces.first[e]; p < pieces.first[e + 1]; ++p) {
        const ExpertPiece& piece = pieces.all[p];
        ASSERT_EQ(piece.e, static_cast<int64_t>(e));
        ASSERT_EQ(piece.h, column);
        ASSERT_EQ(piece.h % step, 0);
        ASSERT_EQ(piece.first_row, place);
        column = piece.h_end;
        place += (counts[e] + 7) / 8 * 8;
      }
      ASSERT_EQ(column, counts[e] > 0 ? H : 0);
      if (counts[e] * 8 < 2 * rows.rows()) {
        ASSERT_LE(pieces.first[e + 1] - pieces.first[e], 1u) << "a small expert is cut";
      }
    }
    ASSERT_EQ(pieces.rows, place);
    std::vector<bool> met(pieces.all.size());
    int64_t last = std::numeric_limits<int64_t>::max();
    for (const size_t i : pieces.order) {
      const int64_t work = rows.rows_of(pieces.all[i].e) * pieces.all[i].width();
      ASSERT_FALSE(met.at(i));
      met[i] = true;
      ASSERT_LE(work, last);
      last = work;
    }
    ASSERT_EQ(pieces.order.size(), pieces.all.size());
  }
}

TEST(ExpertPieces, AnExpertThatTakesAllIsCutInEight) {
  EXPECT_EQ(cut_into_pieces(rows_with({0, 1000, 0}), 1024, 64).all.size(), 8u);
  EXPECT_EQ(cut_into_pieces(rows_with({0, 1000, 0}), 100, 64).all.size(), 2u);
  EXPECT_EQ(cut_into_pieces(rows_with({1000, 1000}), 1024, 64).all.size(), 8u);
}

}  // namespace
}  // namespace smoe
