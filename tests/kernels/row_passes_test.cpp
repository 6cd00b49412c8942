// The passes of sums and of packing on every instruction set that this processor has, against loops over single elements.
#include "tests/kernels/row_passes_case.h"

namespace smoe::testing {
namespace {

TYPED_TEST_SUITE(RowPassesOf, PassTypes);

TYPED_TEST(RowPassesOf, SumRowsInTheirOrder) {
  using T = TypeParam;
  for (int round = 0; round < 200; ++round) {
    const int64_t width = this->draw_.width(300), count = this->draw_.size(0, 9);
    const std::vector<float> numbers = this->draw_.template numbers<float>(width * std::max<int64_t>(count, 1));
    std::vector<const float*> rows;
    for (int64_t i = 0; i < count; ++i) rows.push_back(numbers.data() + i * width);
    for (const RowPassesLevel& level : levels()) {
      std::vector<T> out(static_cast<size_t>(width) + 1, rounded_to<T>(5));
      passes_of(level, T{}).sum_rows(rows.data(), count, width, out.data());
      for (int64_t c = 0; c < width; ++c) {
        float sum = 0;
        for (const float* row : rows) sum += row[c];
        ASSERT_TRUE(same(out[static_cast<size_t>(c)], sum)) << level.name << ", column " << c << " of " << width;
      }
      ASSERT_TRUE(same(out.back(), 5)) << level.name << " writes past " << width;
    }
  }
}

TYPED_TEST(RowPassesOf, PutSumsOfEveryWidthAndPlace) {
  using T = TypeParam;
  for (int round = 0; round < 200; ++round) {
    const int64_t rows = this->draw_.size(0, 5), width = this->draw_.width(200);
    const int64_t ld = width + 16 * this->draw_.size(0, 1) * this->draw_.size(0, 3) + this->draw_.size(0, 1);
    const std::vector<float> sum = this->draw_.template numbers<float>(rows * width);
    const auto shift = static_cast<size_t>(this->draw_.size(0, 40));  // to any place in a line of the caches
    for (const RowPassesLevel& level : levels()) {
      std::vector<T> out(shift + static_cast<size_t>(rows * ld) + 1, rounded_to<T>(5));
      passes_of(level, T{}).put_sums(sum.data(), rows, width, out.data() + shift, ld);
      for (size_t i = 0; i < out.size(); ++i) {
        const int64_t at = static_cast<int64_t>(i) - static_cast<int64_t>(shift), r = at / ld, c = at % ld;
        const bool there = at >= 0 && r < rows && c < width;
        ASSERT_TRUE(same(out[i], there ? sum[static_cast<size_t>(r * width + c)] : 5))
            << level.name << ", (" << r << ", " << c << ") of " << rows << " by " << width << ", ld " << ld;
      }
    }
  }
}

TYPED_TEST(RowPassesOf, PackWhatIsThereAndZeros) {
  using T = TypeParam;
  constexpr int64_t kBlock = 64;
  const auto check = [&](const auto& numbers, bool in_is_t, int64_t K, int64_t N, int64_t stride_k, int64_t stride_n) {
    const int64_t padded = this->kPairs ? K + K % 2 : K, columns = (N + 15) / 16 * 16;
    for (const RowPassesLevel& level : levels()) {
      std::vector<T> out(static_cast<size_t>((N + kBlock - 1) / kBlock * kBlock * padded), rounded_to<T>(5));
      passes_of(level, T{}).pack(numbers.data(), in_is_t, K, N, stride_k, stride_n, out.data());
      for (int64_t k = 0; k < padded; ++k) {
        for (int64_t n = 0; n < columns; ++n) {
          const bool there = k < K && n < N;
          const float want = there ? as_float(numbers[static_cast<size_t>(k * stride_k + n * stride_n)]) : 0.0f;
          const int64_t at = n / kBlock * kBlock * padded + this->place(k, n % kBlock, kBlock);
          ASSERT_TRUE(same(out[static_cast<size_t>(at)], want))
              << level.name << ", (" << k << ", " << n << ") of " << K << " by " << N;
        }
      }
    }
  };
  for (int round = 0; round < 100; ++round) {
    const int64_t K = this->draw_.width(100), N = this->draw_.width(150);
    const int64_t gap = this->draw_.size(0, 1) * this->draw_.size(0, 3), step = 1 + this->draw_.size(0, 5) / 5;
    const std::vector<float> fp32 = this->draw_.template numbers<float>((K + gap) * (N + gap) * step);
    const std::vector<T> own = this->draw_.template numbers<T>((K + gap) * (N + gap) * step);
    check(fp32, false, K, N, step * (N + gap), step);
    check(fp32, false, K, N, step, step * (K + gap));
    check(own, true, K, N, step * (N + gap), step);
    check(own, true, K, N, step, step * (K + gap));
  }
}

TYPED_TEST(RowPassesOf, PackBothAsPackDoesTwice) {
  using T = TypeParam;
  constexpr int64_t kBlock = 64;
  const auto check = [&](const auto& numbers, bool in_is_t, int64_t rows, int64_t width, int64_t ld) {
    for (const RowPassesLevel& level : levels()) {
      const RowPasses<T>& passes = passes_of(level, T{});
      if (passes.pack_both == nullptr) continue;
      const int64_t blocks = (width + kBlock - 1) / kBlock, stride = kBlock * rows + 64 * this->draw_.size(0, 2);
      const auto shift = static_cast<size_t>(this->draw_.size(0, 1));
      std::vector<T> forward(static_cast<size_t>(width * kBlock) + 1),
          backward(static_cast<size_t>(blocks * stride) + 1);
      std::vector<T> forward_want(forward.size()), backward_want(static_cast<size_t>(blocks * kBlock * rows));
      passes.pack_both(numbers.data(), in_is_t, rows, width, ld, this->draw_.size(0, 1) == 1, forward.data() + shift,
                       backward.data() + shift, stride);
      passes.pack(numbers.data(), in_is_t, width, rows, 1, ld, forward_want.data());
      passes.pack(numbers.data(), in_is_t, rows, width, ld, 1, backward_want.data());
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < width; ++c) {
          const auto at = static_cast<size_t>(this->place(c, r, kBlock));
          ASSERT_TRUE(same(forward[at + shift], as_float(forward_want[at]))) << level.name << ", " << r << ", " << c;
          const auto within = static_cast<size_t>(this->place(r, c % kBlock, kBlock));
          ASSERT_TRUE(same(backward[static_cast<size_t>(c / kBlock * stride) + within + shift],
                           as_float(backward_want[static_cast<size_t>(c / kBlock * kBlock * rows) + within])))
              << level.name << ", " << r << ", " << c;
        }
      }
    }
  };
  for (int round = 0; round < 100; ++round) {
    const int64_t rows = 16 * this->draw_.size(1, 4), width = 16 * this->draw_.size(1, 12);
    const int64_t ld = width + this->draw_.size(0, 20);
    check(this->draw_.template numbers<float>(rows * ld), false, rows, width, ld);
    check(this->draw_.template numbers<T>(rows * ld), true, rows, width, ld);
  }
}

}  // namespace
}  // namespace smoe::testing
