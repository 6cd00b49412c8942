#include "smoe/kernels/attention_rows.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "smoe/kernels/instruction_sets.h"

namespace smoe {
namespace {

std::vector<AttentionRowsLevel> levels() {
  std::vector<AttentionRowsLevel> out = {attention_rows_baseline()};
#if defined(__x86_64__)
  if (has_avx2()) out.push_back(attention_rows_avx2());
  if (has_avx512()) out.push_back(attention_rows_avx512());
#endif
  return out;
}

Bf16* bits(const at::Tensor& x) { return static_cast<Bf16*>(x.data_ptr()); }

/// A row of scores in fp64, and its terms in fp32.
struct Row {
  Row(int64_t count, double size) {
    torch::manual_seed(static_cast<uint64_t>(count));
    content = torch::randn({count}) * size;
    relative = torch::randn({count}) * size;
    mask = torch::rand({count}).lt(0.7).to(torch::kFloat) / 0.7;
    score = ((content + relative) * 0.3f).to(torch::kDouble);
    tolerance = 1e-6 * (1 + size);
  }
  at::Tensor content, relative, mask, score;
  double tolerance;  // of the exponents' rounding
};

const std::vector<int64_t> kCounts = {1, 2, 15, 16, 31, 32, 33, 100, 1024};
const std::vector<double> kScoreSizes = {0.1, 1.0, 30.0, 1000.0};

/// Calls check(level, row) for each instruction set, length of row and size of scores.
template <class Check>
void for_rows(const Check& check) {
  for (const AttentionRowsLevel& level : levels()) {
    for (const int64_t count : kCounts) {
      for (const double size : kScoreSizes) {
        SCOPED_TRACE(::testing::Message() << count << ' ' << size);
        check(level, Row(count, size));
      }
    }
  }
}

TEST(AttentionRows, ExponentialsAreThoseOfASoftmax) {
  for_rows([&](const AttentionRowsLevel& level, const Row& row) {
    const int64_t count = row.content.size(0);
    const double top = row.score.max().item<double>();
    const at::Tensor want = torch::exp(row.score - top);
    for (const bool masked : {false, true}) {
      const at::Tensor expected = masked ? want * row.mask : want;
      const float* mask = masked ? row.mask.data_ptr<float>() : nullptr;
      const auto check = [&](const RowExponentials& got, const at::Tensor& out, double relative_error) {
        EXPECT_NEAR(got.top, top, 1e-6 * (1 + std::abs(top)));
        EXPECT_NEAR(got.sum, want.sum().item<double>(), row.tolerance * static_cast<double>(count));
        EXPECT_TRUE(torch::allclose(out.to(torch::kDouble), expected, relative_error, row.tolerance));
      };
      at::Tensor in_place = row.content.clone(), scratch = row.content.clone();
      check(level.fp32.exponentials(in_place.data_ptr<float>(), row.relative.data_ptr<float>(), mask, count, 0.3f,
                                    in_place.data_ptr<float>()),
            in_place, 1e-5);
      const at::Tensor rounded = torch::empty({count}, torch::kBFloat16);
      check(level.bf16.exponentials(scratch.data_ptr<float>(), row.relative.data_ptr<float>(), mask, count, 0.3f,
                                    bits(rounded)),
            rounded, 5e-3);
    }
  });
}

TEST(AttentionRows, ExponentialsOfInfinityAndNan) {
  for (const AttentionRowsLevel& level : levels()) {
    const std::vector<float> none = {0, 0, 0};
    const auto of = [&](std::vector<float> row) {
      const float sum = level.fp32.exponentials(row.data(), none.data(), nullptr, 3, 1, row.data()).sum;
      row.push_back(sum);
      return row;
    };
    const std::vector<float> far = of({0, -1e4f, -200});
    EXPECT_EQ(far, (std::vector<float>{1, 0, 0, 1}));
    EXPECT_EQ(of({0, -std::numeric_limits<float>::infinity(), 0}), (std::vector<float>{1, 0, 1, 2}));
    EXPECT_TRUE(std::isnan(of({0, std::nanf(""), 0})[3]));
  }
}

TEST(AttentionRows, BackwardIsTheGradientOfASoftmax) {
  for_rows([&](const AttentionRowsLevel& level, const Row& row) {
    const int64_t count = row.content.size(0);
    const at::Tensor p = torch::softmax(row.score, 0), gradient = torch::randn({count});
    const float log_sum = static_cast<float>(row.score.logsumexp(0).item<double>());
    for (const bool masked : {false, true}) {
      const at::Tensor mask = masked ? row.mask : torch::ones({count});
      const float delta = (p * gradient * mask).sum().item<float>();
      for (const auto& backward : {level.fp32.backward, level.bf16.backward}) {
        const at::Tensor c = row.content.clone(), g = gradient.clone();
        backward(c.data_ptr<float>(), row.relative.data_ptr<float>(), g.data_ptr<float>(),
                 masked ? mask.data_ptr<float>() : nullptr, count, 0.3f, log_sum, delta);
        EXPECT_TRUE(torch::allclose(c.to(torch::kDouble), p * mask, 1e-4, row.tolerance));
        EXPECT_TRUE(torch::allclose(g.to(torch::kDouble), 0.3 * p * (gradient * mask - delta), 1e-4, row.tolerance));
      }
    }
  });
}

TEST(AttentionRows, PairsAreBothOperandsWithZerosAround) {
  constexpr int64_t kWidth = 96, kLd = 100;
  const at::Tensor odd_numbers = torch::tensor({NAN, INFINITY, 0.0f, 3e38f, 1e-40f});
  for (const AttentionRowsLevel& level : levels()) {
    EXPECT_EQ(level.fp32.put_pair, nullptr);
    for (const auto& [even_first, even_count, odd_first, odd_count] : std::vector<std::array<int64_t, 4>>{
             {0, 96, 0, 96}, {3, 40, 2, 42}, {17, 1, 90, 6}, {0, 0, 5, 64}, {31, 33, 0, 0}}) {
      SCOPED_TRACE(::testing::Message() << even_first << ' ' << even_count << ' ' << odd_first << ' ' << odd_count);
      const at::Tensor even = torch::cat({odd_numbers, torch::randn({kWidth})}).narrow(0, 0, even_count).contiguous();
      const at::Tensor odd = torch::cat({torch::randn({kWidth}), odd_numbers}).narrow(0, 3, odd_count).contiguous();
      at::Tensor want = torch::zeros({2, kWidth}, torch::kBFloat16);
      want[0].narrow(0, even_first, even_count).copy_(even);
      want[1].narrow(0, odd_first, odd_count).copy_(odd);
      const at::Tensor first = torch::full({2, kLd}, 7, torch::kBFloat16);
      const at::Tensor second = torch::empty({kWidth, 2}, torch::kBFloat16);
      const RowPart a{even.data_ptr<float>(), even_first, even_count}, b{odd.data_ptr<float>(), odd_first, odd_count};
      level.bf16.put_pair(a, b, kWidth, bits(first), kLd, bits(second));
      EXPECT_TRUE(torch::allclose(first.narrow(1, 0, kWidth), want, 0, 0, /*equal_nan=*/true));
      EXPECT_TRUE(first.narrow(1, kWidth, kLd - kWidth).eq(7).all().item<bool>()) << "past the row";
      EXPECT_TRUE(torch::allclose(second, want.t(), 0, 0, /*equal_nan=*/true));
      second.fill_(7);
      level.bf16.put_pair(a, b, kWidth, nullptr, kLd, bits(second));
      EXPECT_TRUE(torch::allclose(second, want.t(), 0, 0, /*equal_nan=*/true));
    }
  }
}

TEST(AttentionRows, ScaledRowsAndDotProducts) {
  for (const AttentionRowsLevel& level : levels()) {
    for (const int64_t count : kCounts) {
      SCOPED_TRACE(count);
      torch::manual_seed(static_cast<uint64_t>(count));
      const at::Tensor x = torch::randn({count}), y = torch::randn({count});
      const at::Tensor scaled = torch::full({count + 1}, 7.0f), rounded = torch::full({count + 1}, 7, torch::kBFloat16);
      level.fp32.put_scaled(x.data_ptr<float>(), 0.3f, count, scaled.data_ptr<float>());
      level.bf16.put_scaled(x.data_ptr<float>(), 0.3f, count, bits(rounded));
      EXPECT_TRUE(torch::equal(scaled.narrow(0, 0, count), x * 0.3f));
      EXPECT_TRUE(torch::equal(rounded.narrow(0, 0, count), (x * 0.3f).to(torch::kBFloat16)));
      EXPECT_EQ(scaled[count].item<float>(), 7);
      EXPECT_EQ(rounded[count].item<float>(), 7);
      const double tolerance = 1e-6 * static_cast<double>(count + 8);
      EXPECT_NEAR(level.fp32.dot(x.data_ptr<float>(), y.data_ptr<float>(), count),
                  x.to(torch::kDouble).dot(y.to(torch::kDouble)).item<double>(), tolerance);
      const at::Tensor a = x.to(torch::kBFloat16), b = y.to(torch::kBFloat16);
      EXPECT_NEAR(level.bf16.dot(bits(a), bits(b), count),
                  a.to(torch::kDouble).dot(b.to(torch::kDouble)).item<double>(), tolerance);
    }
  }
}

TEST(AttentionRows, RowsTimesAQueryAndTheirSum) {
  for (const AttentionRowsLevel& level : levels()) {
    for (const int64_t count : {0, 1, 3, 4, 5, 64}) {
      for (const int64_t width : {1, 7, 16, 33, 64, 130}) {
        SCOPED_TRACE(::testing::Message() << count << ' ' << width);
        torch::manual_seed(static_cast<uint64_t>(count + width));
        const at::Tensor all = torch::randn({count + 1, width + 5}).to(torch::kBFloat16);
        const at::Tensor rows = all.narrow(0, 0, count).narrow(1, 0, width).to(torch::kDouble);
        const at::Tensor query = torch::randn({width}), weight = torch::randn({count}), start = torch::randn({width});
        const at::Tensor products = rows.matmul(query.to(torch::kDouble));
        const at::Tensor sum = start.to(torch::kDouble) + weight.to(torch::kDouble).matmul(rows);
        const auto check = [&](const auto& passes, const auto* first) {
          const at::Tensor dots = torch::full({count + 1}, 7.0f), added = start.clone();
          const RowsApart<std::remove_cvref_t<decltype(*first)>> apart{first, width + 5, count, width};
          passes.dots(apart, query.data_ptr<float>(), dots.data_ptr<float>());
          passes.add_rows(apart, weight.data_ptr<float>(), added.data_ptr<float>());
          EXPECT_TRUE(torch::allclose(dots.narrow(0, 0, count).to(torch::kDouble), products, 1e-5, 1e-5));
          EXPECT_EQ(dots[count].item<float>(), 7);
          EXPECT_TRUE(torch::allclose(added.to(torch::kDouble), sum, 1e-5, 1e-5));
        };
        const at::Tensor wide = all.to(torch::kFloat);
        check(level.fp32, wide.const_data_ptr<float>());
        check(level.bf16, static_cast<const Bf16*>(bits(all)));
      }
    }
  }
}

}  // namespace
}  // namespace smoe
