#include "smoe/tensor/precision.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include "smoe/kernels/linear.h"
#include "smoe/tensor/one_thread.h"
#include "smoe/tensor/random_stream.h"
#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

at::Tensor draw(at::IntArrayRef shape, uint64_t seed) {
  at::Tensor out = torch::empty(shape);
  RandomStream(seed).fill_normal(out, 0, 1);
  return out;
}

TEST(Precision, Names) {
  EXPECT_EQ(parse_precision("fp32"), Precision::kFull);
  EXPECT_EQ(parse_precision("bf16"), Precision::kBf16);
  EXPECT_NE(message_of([] { parse_precision("bf61"); }).find("did you mean 'bf16'?"), std::string::npos);
}

TEST(Precision, FullIsThePlainProduct) {
  const at::Tensor x = draw({2, 5, 7}, 1), w = draw({3, 7}, 2), b = draw({3}, 3);
  EXPECT_TRUE(torch::equal(linear(x, w, b, Precision::kFull), torch::linear(x, w, b)));
  EXPECT_TRUE(torch::equal(matmul(x, w.t(), Precision::kFull), torch::matmul(x, w.t())));
  EXPECT_TRUE(to_compute(x, Precision::kFull).is_same(x));
}

TEST(Precision, Bf16RoundsOperandsAndKeepsTheRest) {
  const at::Tensor x = draw({64, 256}, 1), w = draw({32, 256}, 2), b = draw({32}, 3) * 1e-3;
  const auto rounded = [](const at::Tensor& t) { return t.to(torch::kBFloat16).to(torch::kFloat64); };
  const at::Tensor exact = torch::matmul(rounded(x), rounded(w).t());
  const at::Tensor size = torch::matmul(rounded(x).abs(), rounded(w).abs().t());
  const at::Tensor y = linear(x, w, at::Tensor(), Precision::kBf16);
  EXPECT_EQ(y.scalar_type(), torch::kFloat32);
  // One rounding of the sum to bf16, and fp32 on the way: far less than bf16 sums would lose.
  const at::Tensor error = (y.to(torch::kFloat64) - exact).abs();
  EXPECT_TRUE(error.le(exact.abs() * 0x1p-8 + size * 0x1p-20).all().item<bool>());
  EXPECT_GT(error.max().item<double>(), 0);
  EXPECT_TRUE(torch::equal(linear(x, w, b, Precision::kBf16), y + b));  // the bias is added in fp32
  EXPECT_TRUE(torch::equal(matmul(x, w.t(), Precision::kBf16), y));
}

TEST(Precision, Bf16GradientsComeBackInTheParametersType) {
  const at::Tensor x = draw({4, 8}, 1).requires_grad_(), w = draw({3, 8}, 2).requires_grad_(),
                   b = draw({3}, 3).requires_grad_();
  linear(x, w, b, Precision::kBf16).sum().backward();
  for (const at::Tensor& input : {x, w, b}) {
    ASSERT_TRUE(input.grad().defined());
    EXPECT_EQ(input.grad().scalar_type(), torch::kFloat32);
  }
  EXPECT_TRUE(torch::allclose(w.grad(), x.detach().sum(0).expand({3, 8}), 0.02, 0.05));
}

TEST(OneThreadProducts, NestAndLeaveThreadsAsTheyWere) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  const at::Tensor a = draw({64, 435}, 1).to(torch::kFloat64), b = draw({27, 435}, 2).to(torch::kFloat64);
  const at::Tensor free = torch::matmul(a, b.t());
  at::Tensor inner, outer;
  {
    const OneThreadProducts one;
    {
      const OneThreadProducts two;
      inner = torch::matmul(a, b.t());
    }
    outer = torch::matmul(a, b.t());
  }
  EXPECT_TRUE(torch::equal(inner, outer));  // the outer one still holds
  EXPECT_TRUE(torch::equal(torch::matmul(a, b.t()), free));
  EXPECT_EQ(at::get_num_threads(), 2);
  at::set_num_threads(1);
  EXPECT_TRUE(torch::equal(torch::matmul(a, b.t()), inner));  // one thread is one thread
  at::set_num_threads(before);
}

}  // namespace
}  // namespace smoe
