#include "smoe/kernels/row_linear.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

TEST(RowLinear, IsALinearMap) {
  uint64_t seed = 0;
  for (const int64_t M : {0, 1, 15, 16, 33}) {
    for (const int64_t I : {1, 5, 16, 31}) {
      for (const int64_t O : {1, 7, 16}) {
        const at::Tensor x = normal_values({M, I}, ++seed), w = normal_values({O, I}, ++seed),
                         b = normal_values({O}, ++seed);
        EXPECT_TRUE(torch::allclose(row_linear(x, w, b), x.matmul(w.t()) + b, 1e-12, 1e-12)) << M << " " << I;
        EXPECT_TRUE(torch::allclose(row_linear(x, w, {}), x.matmul(w.t()), 1e-12, 1e-12)) << M << " " << I;
        EXPECT_EQ(row_linear(x, w, b).sizes(), at::IntArrayRef({M, O}));
      }
    }
  }
}

TEST(RowLinear, GradientsThroughThePadding) {
  for (const int64_t I : {3, 16}) {
    for (const int64_t M : {0, 2, 16}) {
      const at::Tensor x = normal_values({M, I}, 1), w = normal_values({4, I}, 2), b = normal_values({4}, 3);
      gradcheck([&] { return row_linear(x, w, b); }, {{"x", x}, {"w", w}, {"b", b}});
      gradcheck([&] { return row_linear(x, w, {}); }, {{"x", x}, {"w", w}});
    }
  }
}

/// Equal rows must come out with equal bits, wherever they stand and however many they are.
TEST(RowLinear, EqualRowsGiveEqualBits) {
  const torch::NoGradGuard no_grad;
  std::mt19937_64 random(5);
  const auto up_to = [&](int64_t n) { return 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
  for (int i = 0; i < 240; ++i) {
    int64_t I = up_to(i % 4 == 0 ? 3000 : 300), O = up_to(i % 3 == 0 ? 12 : 200);
    if (i % 5 == 0) I = 16 * up_to(40), O = 16 * up_to(20);
    const at::Tensor row = normal_values({1, I}, 10), w = normal_values({O, I}, 11),
                     b = i % 2 == 0 ? normal_values({O}, 12) : at::Tensor();
    const Threads threads(1 << (i % 3));
    for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
      const auto map = [&](int64_t rows) {
        return row_linear(row.to(type).expand({rows, I}).contiguous(), w.to(type), b.defined() ? b.to(type) : b);
      };
      const at::Tensor one = map(1);
      for (const int64_t rows : {2, 16, 31, 48, 130}) {
        ASSERT_TRUE(same_bits(map(rows), one.expand({rows, O})))
            << rows << " rows, I " << I << ", O " << O << ", " << type << ", threads " << at::get_num_threads();
      }
    }
  }
}

TEST(RowLinear, RefusesShapesThatDoNotFit) {
  const at::Tensor x = torch::zeros({2, 3}), w = torch::zeros({4, 5});
  const std::string message = message_of([&] { row_linear(x, w, {}); });
  EXPECT_NE(message.find("[2, 3] and [4, 5]"), std::string::npos) << message;
}

}  // namespace
}  // namespace smoe
