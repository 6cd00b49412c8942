#include "smoe/kernels/dropout.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "smoe/base/philox.h"
#include "smoe/kernels/dropout_rows_levels.h"
#include "smoe/kernels/instruction_sets.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

/// Fraction kept; every value must be 0 or 1/(1−p).
double keep_rate(const at::Tensor& mask, double p) {
  const auto scale = static_cast<float>(1 / (1 - p));
  EXPECT_TRUE(mask.eq(0).logical_or(mask.eq(scale)).all().item<bool>()) << "p " << p;
  return mask.ne(0).to(torch::kFloat64).mean().item<double>();
}

TEST(Dropout, KeepsTheRightFractionScaled) {
  const int64_t n = 200000;
  for (const double p : {0.01, 0.1, 0.25, 0.5, 0.9, 0.999}) {
    const double tolerance = 5 * std::sqrt(p * (1 - p) / static_cast<double>(n));  // five standard deviations
    EXPECT_NEAR(keep_rate(dropout_mask(n, p, 7), p), 1 - p, tolerance) << p;
    EXPECT_NEAR(keep_rate(expert_dropout_mask(torch::arange(400), 3, n / 400, p, 7), p), 1 - p, tolerance) << p;
  }
  EXPECT_TRUE(torch::equal(dropout_mask(100, 0, 7), torch::ones({100})));
}

TEST(Dropout, NeighboursAreIndependent) {
  const int64_t n = 400000;
  const at::Tensor kept = dropout_mask(n, 0.5, 11).ne(0).to(torch::kFloat64) - 0.5;
  for (const int64_t lag : {1, 2, 3, 4, 8, 512}) {
    const double correlation = (kept.narrow(0, 0, n - lag) * kept.narrow(0, lag, n - lag)).mean().item<double>() * 4;
    EXPECT_NEAR(correlation, 0, 5 / std::sqrt(static_cast<double>(n))) << lag;
  }
  const at::Tensor rows = expert_dropout_mask(torch::arange(1000), 0, 400, 0.5, 11).ne(0).to(torch::kFloat64) - 0.5;
  EXPECT_NEAR((rows.narrow(0, 0, 999) * rows.narrow(0, 1, 999)).mean().item<double>() * 4, 0, 5 / std::sqrt(4e5));
}

TEST(Dropout, AnElementsFateIsAFunctionOfItsNumberAndTheKey) {
  const at::Tensor long_mask = dropout_mask(100001, 0.3, 42);
  for (const int64_t count : {0, 1, 2, 3, 4, 5, 63, 16384, 16385, 99999}) {
    ASSERT_TRUE(torch::equal(dropout_mask(count, 0.3, 42), long_mask.narrow(0, 0, count))) << count;
  }
  const Threads one(1);
  EXPECT_TRUE(torch::equal(dropout_mask(100001, 0.3, 42), long_mask));
  // The rule itself, so that files of a run made elsewhere stay what they are: word n % 4 of block n / 4.
  for (const int64_t n : {0, 1, 6, 4095, 100000}) {
    const PhiloxBlock block = philox(42, static_cast<uint64_t>(n / 4), 0);
    const bool dropped = block[static_cast<size_t>(n % 4)] < bernoulli_threshold(0.3);
    EXPECT_EQ(long_mask[n].item<float>() == 0, dropped) << n;
  }
}

TEST(Dropout, EveryInstructionSetFollowsTheRule) {
  std::vector<FillDropoutWords> levels = {fill_dropout_baseline()};
#if defined(__x86_64__)
  if (has_avx2()) levels.push_back(fill_dropout_avx2());
  if (has_avx512()) levels.push_back(fill_dropout_avx512());
#endif
  const uint64_t key = 0xfedcba9876543210u, high = 0x0123456789abcdefu;
  for (const uint32_t last : {0u, 123456789u, 0x80000000u, 0xffffffffu}) {
    for (const uint64_t first : {uint64_t{0}, uint64_t{5}, (uint64_t{1} << 32) - 7, ~uint64_t{0} - 70}) {
      for (const int64_t count : {0, 1, 3, 4, 127, 128, 129, 270}) {
        std::vector<float> want;
        for (int64_t n = 0; n < count; ++n) {
          const PhiloxBlock block = philox(key, first + static_cast<uint64_t>(n / 4), high);
          want.push_back(block[static_cast<size_t>(n % 4)] <= last ? 0.0f : 1.25f);
        }
        want.push_back(-1);  // what lies behind must stay
        for (size_t level = 0; level < levels.size(); ++level) {
          std::vector<float> got(static_cast<size_t>(count) + 1, -1);
          levels[level]({key, high, last, 1.25f}, first, count, got.data());
          EXPECT_EQ(got, want) << "level " << level << ", first " << first << ", count " << count;
        }
      }
    }
  }
}

TEST(Dropout, ATileOfARowIsThatPartOfIt) {
  const at::Tensor tokens = torch::tensor({9, 0, 5, 70000}, torch::kInt64),
                   mask = expert_dropout_mask(tokens, 2, 301, 0.4, 1);
  const at::Tensor ids = tokens.to(torch::kInt32);
  for (const auto& [first, units] : std::vector<std::pair<int64_t, int64_t>>{{0, 301}, {4, 1}, {128, 173}, {300, 1}}) {
    at::Tensor tile = torch::empty({4, units});
    fill_expert_mask(ids.data_ptr<int32_t>(), 4, 2, first, units, 0.4, 1, tile.data_ptr<float>());
    EXPECT_TRUE(torch::equal(tile, mask.narrow(1, first, units))) << first;
  }
  // So near to 1 that every word drops.
  EXPECT_EQ(dropout_mask(1000, 1 - 1e-12, 3).abs().sum().item<float>(), 0);
}

TEST(Dropout, AnExpertsMaskIsAFunctionOfTokenExpertAndUnit) {
  const at::Tensor tokens = torch::tensor({9, 0, 5, 70000, 5}, torch::kInt64);
  for (const int64_t hidden : {1, 3, 4, 7, 130}) {
    const at::Tensor mask = expert_dropout_mask(tokens, 2, hidden, 0.4, 1);
    ASSERT_EQ(mask.sizes(), at::IntArrayRef({5, hidden}));
    const at::Tensor order = torch::tensor({3, 1, 4, 0, 2}, torch::kInt64);
    EXPECT_TRUE(torch::equal(expert_dropout_mask(tokens.index_select(0, order), 2, hidden, 0.4, 1),
                             mask.index_select(0, order)));
    EXPECT_TRUE(torch::equal(mask[2], mask[4]));  // the same token twice
    for (int64_t r = 0; r < 5; ++r) {
      EXPECT_TRUE(torch::equal(expert_dropout_mask(tokens.narrow(0, r, 1), 2, hidden, 0.4, 1)[0], mask[r])) << r;
    }
    EXPECT_TRUE(torch::equal(expert_dropout_mask(tokens, 2, hidden + 5, 0.4, 1).narrow(1, 0, hidden), mask));
  }
  EXPECT_EQ(expert_dropout_mask(torch::empty({0}, torch::kInt64), 0, 8, 0.4, 1).sizes(), at::IntArrayRef({0, 8}));
}

TEST(Dropout, OtherKeysExpertsAndTokensDrawOtherMasks) {
  const auto agree = [](const at::Tensor& a, const at::Tensor& b) {
    return a.eq(b).to(torch::kFloat64).mean().item<double>();
  };
  // Unrelated masks with p = 1/2 agree in half of the places.
  const at::Tensor tokens = torch::arange(50), mask = expert_dropout_mask(tokens, 1, 200, 0.5, 5);
  EXPECT_NEAR(agree(mask, expert_dropout_mask(tokens, 1, 200, 0.5, 6)), 0.5, 0.03);
  EXPECT_NEAR(agree(mask, expert_dropout_mask(tokens, 0, 200, 0.5, 5)), 0.5, 0.03);
  EXPECT_NEAR(agree(mask, expert_dropout_mask(tokens, 2, 200, 0.5, 5)), 0.5, 0.03);
  EXPECT_NEAR(agree(mask, expert_dropout_mask(tokens + 50, 1, 200, 0.5, 5)), 0.5, 0.03);
  EXPECT_NEAR(agree(mask, expert_dropout_mask(tokens, 1, 200, 0.5, 5 + (uint64_t{1} << 32))), 0.5, 0.03);
  EXPECT_NEAR(agree(dropout_mask(10000, 0.5, 1), dropout_mask(10000, 0.5, 2)), 0.5, 0.03);
  EXPECT_NEAR(agree(dropout_mask(10000, 0.5, 1).view({50, 200}), mask), 0.5, 0.03);
}

TEST(Dropout, MultipliesByItsMask) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    const at::Tensor x = torch::linspace(1, 2, 60).view({3, 4, 5}).to(type).requires_grad_();
    const at::Tensor mask = dropout_mask(60, 0.5, 3).view({3, 4, 5}).to(type), y = smoe::dropout(x, 0.5, 3);
    EXPECT_EQ(y.scalar_type(), type);
    EXPECT_TRUE(torch::equal(y, x * mask));
    const at::Tensor gradient = torch::linspace(-1, 1, 60).view({3, 4, 5}).to(type);
    y.backward(gradient);
    EXPECT_TRUE(torch::equal(x.grad(), gradient * mask));
  }
  // Elements count row by row, whatever the strides.
  const at::Tensor x = torch::linspace(1, 2, 20).view({4, 5});
  EXPECT_TRUE(torch::equal(smoe::dropout(x.t(), 0.5, 3), smoe::dropout(x.t().contiguous(), 0.5, 3)));
}

TEST(Dropout, SecondDerivative) {
  const at::Tensor x = torch::linspace(1, 2, 60).to(torch::kDouble).requires_grad_(), mask = dropout_mask(60, 0.5, 3);
  const at::Tensor gradient =
      torch::autograd::grad({smoe::dropout(x, 0.5, 3).pow(3).sum()}, {x}, {}, true, /*create_graph=*/true)[0];
  gradient.sum().backward();
  EXPECT_TRUE(torch::allclose(x.grad(), 6 * mask.to(torch::kDouble).pow(3) * x.detach()));
}

TEST(Dropout, NoneIsTheInputItself) {
  const at::Tensor x = torch::ones({3});
  EXPECT_TRUE(smoe::dropout(x, 0, 1).is_same(x));
  EXPECT_EQ(smoe::dropout(torch::empty({0, 4}), 0.5, 1).sizes(), at::IntArrayRef({0, 4}));
}

TEST(Dropout, RefusesOtherProbabilitiesAndTokens) {
  const at::Tensor x = torch::ones({3}), token = torch::arange(3);
  for (const double p : {-0.1, 1.0, 1.5, std::nan("")}) {
    EXPECT_NE(message_of([&] { smoe::dropout(x, p, 1); }).find("p must be in [0, 1)"), std::string::npos) << p;
    EXPECT_THROW(dropout_mask(3, p, 1), UserError) << p;
    EXPECT_THROW(expert_dropout_mask(token, 0, 4, p, 1), UserError) << p;
  }
  EXPECT_THROW(expert_dropout_mask(token.to(torch::kInt32), 0, 4, 0.5, 1), UserError);
  EXPECT_THROW(expert_dropout_mask(torch::arange(6).view({3, 2}).select(1, 0), 0, 4, 0.5, 1), UserError);
}

}  // namespace
}  // namespace smoe
