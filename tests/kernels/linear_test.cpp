#include "smoe/kernels/linear.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <array>
#include <limits>
#include <string>
#include <vector>

#include "smoe/base/error.h"
#include "smoe/kernels/block_gemm.h"
#include "tests/kernels/gradcheck.h"
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

/// Whether `got` is `want` but for rounding in sums of products whose sizes sum up to `size`, and to the dtype of `got`.
void expect_near(const at::Tensor& got, const at::Tensor& want, const at::Tensor& size, const std::string& what) {
  const double rounding = got.scalar_type() == at::kBFloat16 ? 0x1p-8 : 0;
  const at::Tensor excess = (got.to(torch::kFloat64) - want).abs() - size * 0x1p-18 - want.abs() * rounding;
  EXPECT_LE(excess.max().item<double>(), 0) << what;
}

/// The types of rows, weight and result.
struct LinearTypes {
  at::ScalarType x, weight, out;
};
const std::vector<LinearTypes> kLinearTypes = {{at::kFloat, at::kFloat, at::kFloat},
                                               {at::kBFloat16, at::kFloat, at::kBFloat16},
                                               {at::kBFloat16, at::kFloat, at::kFloat},
                                               {at::kBFloat16, at::kBFloat16, at::kBFloat16}};

TEST_F(LinearCpu, ForwardAndGradientsAreThoseOfFp64) {
  for (const LinearTypes& types : kLinearTypes) {
    if (!has_block_gemm(types.x)) continue;
    const auto to_x = [&](const at::Tensor& t) { return t.to(types.x); };
    for (const Size& n :
         std::vector<Size>{{128, 16, 64}, {129, 7, 3}, {300, 65, 130}, {1000, 256, 200}, {130, 300, 18}, {256, 1, 1}}) {
      const bool even = n.I % 2 == 0 && n.O % 2 == 0;
      const std::string what = ::testing::PrintToString(std::vector<int64_t>{n.R, n.I, n.O}) + toString(types.x) +
                               toString(types.weight) + toString(types.out);
      at::Tensor x = to_x(draw({n.R, n.I}, 1)), w = draw({n.O, n.I}, 2).to(types.weight), b = draw({n.O}, 3);
      const at::Tensor g = draw({n.R, n.O}, 4).to(types.out);
      for (at::Tensor* each : {&x, &w, &b}) each->requires_grad_();
      ASSERT_EQ(linear_cpu_takes(x, w, b), types.x == at::kFloat || even);
      if (!linear_cpu_takes(x, w, b)) continue;
      const at::Tensor y = linear_cpu({}, x, w, b, types.out);
      EXPECT_EQ(y.scalar_type(), types.out);
      y.backward(g);
      const torch::NoGradGuard no_grad;
      const auto wide = [](const at::Tensor& t) { return t.to(torch::kFloat64); };
      // In bf16 weights and gradients are operands of bf16, too.
      const at::Tensor X = wide(x), W = wide(to_x(w)), B = wide(b), G = wide(to_x(g));
      expect_near(y, torch::linear(X, W, B), torch::linear(X.abs(), W.abs(), B.abs()), what);
      expect_near(x.grad(), torch::matmul(G, W), torch::matmul(G.abs(), W.abs()), what + " x");
      expect_near(w.grad(), torch::matmul(G.t(), X), torch::matmul(G.t().abs(), X.abs()), what + " weight");
      expect_near(b.grad(), G.sum(0), G.abs().sum(0), what + " bias");
      EXPECT_EQ(w.grad().scalar_type(), types.weight);
    }
  }
}

TEST_F(LinearCpu, MemoryComesFirstAndTakesNoGradient) {
  for (const LinearTypes& types : kLinearTypes) {
    if (!has_block_gemm(types.x)) continue;
    for (const auto& [B, M, S] : std::vector<std::array<int64_t, 3>>{{1, 1, 128}, {3, 130, 70}, {2, 300, 129}}) {
      SCOPED_TRACE(::testing::Message() << B << ' ' << M << ' ' << S << ' ' << types.x << types.weight << types.out);
      const int64_t I = 24, O = 70;
      const at::Tensor memory = draw({B, M, I}, 5).to(types.x), w = draw({O, I}, 2).to(types.weight).requires_grad_();
      const at::Tensor x = draw({B, S, I}, 1).to(types.x).requires_grad_(), g = draw({B, M + S, O}, 4).to(types.out);
      const at::Tensor y = linear_cpu(memory, x, w, {}, types.out);
      y.backward(g);
      const at::Tensor all = torch::cat({memory, x.detach()}, 1).requires_grad_(),
                       v = w.detach().clone().requires_grad_();
      const at::Tensor z = linear_cpu({}, all, v, {}, types.out);
      z.backward(g);
      EXPECT_TRUE(torch::equal(y, z));
      EXPECT_TRUE(torch::equal(x.grad(), all.grad().narrow(1, M, S)));
      EXPECT_TRUE(torch::allclose(w.grad(), v.grad(), types.weight == at::kFloat ? 1e-4 : 1e-2, 1e-3));
    }
  }
}

TEST_F(LinearCpu, TakesWhatModelsGiveIt) {
  // A weight that is part of another one, x of three dimensions and not contiguous, no bias, a gradient that is one number.
  const at::Tensor both = draw({48, 20}, 1).requires_grad_(), x = draw({20, 50, 4}, 2).transpose(0, 2).requires_grad_();
  const at::Tensor part = both.narrow(0, 16, 32);
  const at::Tensor y = linear_cpu({}, x, part, {}, at::kFloat);
  EXPECT_EQ(y.sizes(), at::IntArrayRef({4, 50, 32}));
  y.sum().backward();
  EXPECT_TRUE(torch::allclose(y, torch::linear(x, part), 1e-5, 1e-5));
  EXPECT_TRUE(torch::allclose(x.grad(), part.sum(0).expand_as(x), 1e-5, 1e-5));
  EXPECT_TRUE(torch::equal(both.grad().narrow(0, 0, 16), torch::zeros({16, 20})));
  EXPECT_TRUE(
      torch::allclose(both.grad().narrow(0, 16, 32), x.sum(at::IntArrayRef({0, 1})).expand({32, 20}), 1e-4, 1e-3));
}

TEST_F(LinearCpu, HasNoSecondDerivative) {
  const at::Tensor x = draw({128, 8}, 1), w = draw({6, 8}, 2), b = draw({6}, 3);
  testing::expect_no_second_derivative([&] { return linear_cpu({}, x, w, b, at::kFloat); },
                                       {{"x", x}, {"weight", w}, {"bias", b}});
}

TEST_F(LinearCpu, LeavesToLibTorchABiasOfAnotherShape) {
  const at::Tensor x = draw({128, 64}, 1), w = draw({32, 64}, 2), one = draw({1}, 3);
  EXPECT_FALSE(linear_cpu_takes(x, w, one));
  EXPECT_TRUE(torch::allclose(linear(x, w, one, Precision::kFull), torch::linear(x, w) + one, 1e-5, 1e-5));
  EXPECT_THROW(linear_cpu(draw({2, 3, 64}, 4), x.view({1, 128, 64}), w, {}, at::kFloat), UserError);
}

TEST_F(LinearCpu, OnlyAskedForGradientsAreComputed) {
  at::Tensor x = draw({128, 8}, 1), w = draw({8, 8}, 2).requires_grad_();
  linear_cpu({}, x, w, {}, at::kFloat).sum().backward();
  EXPECT_FALSE(x.grad().defined());
  EXPECT_TRUE(w.grad().defined());
  const torch::NoGradGuard no_grad;
  EXPECT_FALSE(linear_cpu({}, x, w, {}, at::kFloat).requires_grad());
}

TEST_F(LinearCpu, BitsDoNotDependOnThreadsOrOtherRows) {
  const int before = at::get_num_threads();
  for (const LinearTypes& types : kLinearTypes) {
    if (!has_block_gemm(types.x)) continue;
    const at::Tensor x = draw({700, 96}, 1).to(types.x), w = draw({160, 96}, 2).to(types.weight), b = draw({160}, 3);
    const at::Tensor g = draw({700, 160}, 4).to(types.out);
    const at::Tensor memory = draw({1, 300, 96}, 5).to(types.x), all = draw({1, 1000, 160}, 6).to(types.out);
    const auto run = [&](int threads) {
      at::set_num_threads(threads);
      at::Tensor xs = x.clone().requires_grad_(), ws = w.clone().requires_grad_(), bs = b.clone().requires_grad_();
      const at::Tensor y = linear_cpu({}, xs, ws, bs, types.out);
      y.backward(g);
      at::Tensor x3 = x.unsqueeze(0).clone().requires_grad_(), w3 = w.clone().requires_grad_();
      const at::Tensor after = linear_cpu(memory, x3, w3, {}, types.out);
      after.backward(all);
      return std::vector<at::Tensor>{y.detach(), xs.grad(), ws.grad(), bs.grad(), after.detach(), x3.grad(), w3.grad()};
    };
    const std::vector<at::Tensor> one = run(1);
    for (const int threads : {2, 3, 5}) {
      const std::vector<at::Tensor> many = run(threads);
      for (size_t i = 0; i < one.size(); ++i)
        EXPECT_TRUE(torch::equal(one[i], many[i])) << threads << " threads, " << i;
    }
    at::set_num_threads(before);
    EXPECT_TRUE(torch::equal(linear_cpu({}, x.narrow(0, 100, 200), w, b, types.out), one[0].narrow(0, 100, 200)));
  }
}

TEST_F(LinearCpu, NotANumberStaysInItsRow) {
  at::Tensor x = draw({200, 32}, 1);
  x[77][3] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor bad = linear_cpu({}, x, draw({16, 32}, 2), {}, at::kFloat).isnan().any(1);
  EXPECT_EQ(bad.sum().item<int64_t>(), 1);
  EXPECT_TRUE(bad[77].item<bool>());
}

TEST(Linear, BodiesAgreeInEitherPrecision) {
  const at::Tensor x = draw({2, 90, 32}, 1), memory = draw({2, 40, 32}, 5), w = draw({48, 32}, 2), b = draw({48}, 3);
  for (const Precision precision : {Precision::kFull, Precision::kBf16}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      if (type == at::kBFloat16 && precision == Precision::kFull) continue;
      const at::Tensor rows = x.to(type), past = memory.to(type);
      const double tolerance = type == at::kBFloat16 ? 0.05 : precision == Precision::kBf16 ? 0.03 : 1e-5;
      const at::Tensor plain = linear_reference(rows, w, b, precision), fast = linear(rows, w, b, precision);
      EXPECT_EQ(fast.scalar_type(), type);
      EXPECT_TRUE(torch::allclose(fast, plain.to(type), tolerance, tolerance));
      const at::Tensor after = linear_after(past, rows, w, precision);
      const at::Tensor want = linear_reference(torch::cat({past, rows}, 1), w, {}, precision);
      EXPECT_EQ(after.scalar_type(), type);
      EXPECT_TRUE(torch::allclose(after, want.to(type), tolerance, tolerance));
      EXPECT_TRUE(torch::equal(linear_after(past.narrow(1, 0, 0), rows, w, precision), linear(rows, w, {}, precision)));
    }
  }
}

TEST(Linear, LeavesTheRestToLibTorch) {
  const at::Tensor w = draw({4, 8}, 2), b = draw({4}, 3);
  EXPECT_FALSE(linear_cpu_takes(draw({kLinearRows - 1, 8}, 1), w, b));
  EXPECT_FALSE(linear_cpu_takes(draw({200, 8}, 1).to(torch::kFloat64), w.to(torch::kFloat64), {}));
  EXPECT_FALSE(linear_cpu_takes(draw({200, 8}, 1), w.to(torch::kBFloat16), {}));
  EXPECT_FALSE(linear_cpu_takes(draw({200, 7}, 1).to(torch::kBFloat16), draw({4, 7}, 2), {}));
  EXPECT_FALSE(linear_cpu_takes(draw({200, 0}, 1), draw({4, 0}, 1), {}));
  for (const int64_t rows : {0, 1, 3}) {
    const at::Tensor x = draw({rows, 8}, 1);
    EXPECT_TRUE(torch::equal(linear(x, w, b, Precision::kFull), torch::linear(x, w, b)));
  }
}

}  // namespace
}  // namespace smoe
