#include "smoe/kernels/linear.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <limits>
#include <string>
#include <vector>

#include "smoe/kernels/block_gemm.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

at::Tensor draw(at::IntArrayRef shape, uint64_t seed) {
  return testing::normal_values(shape, seed).to(torch::kFloat32);
}

struct Size {
  int64_t R, I, O;
};

class LinearCpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_block_gemm(at::kFloat)) GTEST_SKIP() << "there are no block microkernels here";
  }
};

/// Whether `got` is `want` but for rounding in sums of fp32 products whose sizes sum up to `size`.
void expect_near(const at::Tensor& got, const at::Tensor& want, const at::Tensor& size, const std::string& what) {
  const at::Tensor excess = (got.to(torch::kFloat64) - want).abs() - size * 0x1p-18;
  EXPECT_LE(excess.max().item<double>(), 0) << what;
}

TEST_F(LinearCpu, ForwardAndGradientsAreThoseOfFp64) {
  for (const Size& n : std::vector<Size>{{128, 16, 64}, {129, 7, 3}, {300, 65, 130}, {1000, 256, 200}, {256, 1, 1}}) {
    const std::string what = ::testing::PrintToString(std::vector<int64_t>{n.R, n.I, n.O});
    at::Tensor x = draw({n.R, n.I}, 1), w = draw({n.O, n.I}, 2), b = draw({n.O}, 3), g = draw({n.R, n.O}, 4);
    for (at::Tensor* each : {&x, &w, &b}) each->requires_grad_();
    ASSERT_TRUE(linear_cpu_takes(x, w, b));
    const at::Tensor y = linear_cpu(x, w, b);
    y.backward(g);
    const torch::NoGradGuard no_grad;
    const auto wide = [](const at::Tensor& t) { return t.to(torch::kFloat64); };
    const at::Tensor X = wide(x), W = wide(w), B = wide(b), G = wide(g);
    expect_near(y, torch::linear(X, W, B), torch::linear(X.abs(), W.abs(), B.abs()), what);
    expect_near(x.grad(), torch::matmul(G, W), torch::matmul(G.abs(), W.abs()), what + " x");
    expect_near(w.grad(), torch::matmul(G.t(), X), torch::matmul(G.t().abs(), X.abs()), what + " weight");
    expect_near(b.grad(), G.sum(0), G.abs().sum(0), what + " bias");
  }
}

TEST_F(LinearCpu, TakesWhatModelsGiveIt) {
  // A weight that is part of another one, x of three dimensions and not contiguous, no bias, a gradient that is one number.
  const at::Tensor both = draw({48, 20}, 1).requires_grad_(), x = draw({20, 50, 4}, 2).transpose(0, 2).requires_grad_();
  const at::Tensor part = both.narrow(0, 16, 32);
  const at::Tensor y = linear_cpu(x, part, {});
  EXPECT_EQ(y.sizes(), at::IntArrayRef({4, 50, 32}));
  y.sum().backward();
  EXPECT_TRUE(torch::allclose(y, torch::linear(x, part), 1e-5, 1e-5));
  EXPECT_TRUE(torch::allclose(x.grad(), part.sum(0).expand_as(x), 1e-5, 1e-5));
  EXPECT_TRUE(torch::equal(both.grad().narrow(0, 0, 16), torch::zeros({16, 20})));
  EXPECT_TRUE(
      torch::allclose(both.grad().narrow(0, 16, 32), x.sum(at::IntArrayRef({0, 1})).expand({32, 20}), 1e-4, 1e-3));
}

TEST_F(LinearCpu, OnlyAskedForGradientsAreComputed) {
  at::Tensor x = draw({128, 8}, 1), w = draw({8, 8}, 2).requires_grad_();
  linear_cpu(x, w, {}).sum().backward();
  EXPECT_FALSE(x.grad().defined());
  EXPECT_TRUE(w.grad().defined());
  const torch::NoGradGuard no_grad;
  EXPECT_FALSE(linear_cpu(x, w, {}).requires_grad());
}

TEST_F(LinearCpu, BitsDoNotDependOnThreadsOrOtherRows) {
  const int before = at::get_num_threads();
  const at::Tensor x = draw({700, 96}, 1), w = draw({160, 96}, 2), b = draw({160}, 3), g = draw({700, 160}, 4);
  const auto run = [&](int threads) {
    at::set_num_threads(threads);
    at::Tensor xs = x.clone().requires_grad_(), ws = w.clone().requires_grad_(), bs = b.clone().requires_grad_();
    const at::Tensor y = linear_cpu(xs, ws, bs);
    y.backward(g);
    return std::vector<at::Tensor>{y.detach(), xs.grad(), ws.grad(), bs.grad()};
  };
  const std::vector<at::Tensor> one = run(1);
  for (const int threads : {2, 3, 5}) {
    const std::vector<at::Tensor> many = run(threads);
    for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(torch::equal(one[i], many[i])) << threads << " threads, " << i;
  }
  at::set_num_threads(before);
  EXPECT_TRUE(torch::equal(linear_cpu(x.narrow(0, 100, 200), w, b), one[0].narrow(0, 100, 200)));
}

TEST_F(LinearCpu, NotANumberStaysInItsRow) {
  at::Tensor x = draw({200, 32}, 1);
  x[77][3] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor bad = linear_cpu(x, draw({16, 32}, 2), {}).isnan().any(1);
  EXPECT_EQ(bad.sum().item<int64_t>(), 1);
  EXPECT_TRUE(bad[77].item<bool>());
}

TEST(Linear, LeavesTheRestToLibTorch) {
  const at::Tensor w = draw({4, 8}, 2), b = draw({4}, 3);
  EXPECT_FALSE(linear_cpu_takes(draw({kLinearRows - 1, 8}, 1), w, b));
  EXPECT_FALSE(linear_cpu_takes(draw({200, 8}, 1).to(torch::kFloat64), w.to(torch::kFloat64), {}));
  EXPECT_FALSE(linear_cpu_takes(draw({200, 8}, 1).to(torch::kBFloat16), w, {}));
  EXPECT_FALSE(linear_cpu_takes(draw({200, 0}, 1), draw({4, 0}, 1), {}));
  for (const int64_t rows : {0, 1, 3}) {
    const at::Tensor x = draw({rows, 8}, 1);
    EXPECT_TRUE(torch::equal(linear(x, w, b, Precision::kFull), torch::linear(x, w, b)));
  }
}

}  // namespace
}  // namespace smoe
