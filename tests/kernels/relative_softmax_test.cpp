// What the CUDA kernels of relative_softmax do for each row, run here by loops in their place.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "smoe/kernels/attention.h"
#include "smoe/kernels/relative_softmax_elements.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

/// The visible scores of all rows, and −∞ for the others, with LibTorch.
at::Tensor scores(const at::Tensor& content, const at::Tensor& relative, double scale, int64_t window) {
  const int64_t S = content.size(1), L = content.size(2);
  const at::Tensor hidden = hidden_keys(S, L - S, window, at::kCPU);
  return ((content + relative_shift(relative)) * scale).masked_fill(hidden, -std::numeric_limits<double>::infinity());
}

TEST(RelativeSoftmax, RowsEqualASoftmaxAndItsGradient) {
  std::mt19937_64 random(5);
  for (int i = 0; i < 60; ++i) {
    const int64_t G = 1 + i % 3, S = 1 + static_cast<int64_t>(random() % 9), L = S + static_cast<int64_t>(random() % 9);
    const int64_t window = i % 4 == 0 ? static_cast<int64_t>(random() % 6) : -1;
    const double scale = 0.7;
    torch::manual_seed(i);
    at::Tensor content = torch::randn({G, S, L}, torch::kFloat64) * 3, relative = torch::randn_like(content) * 3;
    const at::Tensor of_probability = torch::randn_like(content);
    const at::Tensor probability = torch::zeros_like(content), of_content = torch::zeros_like(content),
                     of_relative = torch::zeros_like(content);
    RelativeSoftmaxArguments<double> a{.rows = G * S,
                                       .segment = S,
                                       .length = L,
                                       .window = window,
                                       .scale = scale,
                                       .content = content.const_data_ptr<double>(),
                                       .relative = relative.const_data_ptr<double>(),
                                       .probability = probability.mutable_data_ptr<double>(),
                                       .of_probability = of_probability.const_data_ptr<double>(),
                                       .of_content = of_content.mutable_data_ptr<double>(),
                                       .of_relative = of_relative.mutable_data_ptr<double>()};
    for (int64_t row = 0; row < a.rows; ++row) {
      std::vector<SumOfExponentials<double>> lanes(3, {0, 0});  // some may get none
      for (int64_t key = a.first_key(row); key < a.end_key(row); ++key) {
        lanes[static_cast<size_t>(key) % 3].add(a.score(row, key));
      }
      for (const size_t lane : {1, 2}) lanes[0].add(lanes[lane]);
      double dot = 0;
      for (int64_t key = a.first_key(row); key < a.end_key(row); ++key) {
        double& p = a.probability[row * L + key];
        p = std::exp(a.score(row, key) - lanes[0].largest) / lanes[0].sum;
        dot += p * a.of_probability[row * L + key];
      }
      for (int64_t key = 0; key < L; ++key) {
        a.of_content[row * L + key] = a.of_score(row, key, dot);
        a.of_relative[row * L + key] = a.of_score(row, key - a.shift(row), dot);
      }
    }
    content.requires_grad_();
    relative.requires_grad_();
    const at::Tensor want = torch::softmax(scores(content, relative, scale, window), -1);
    want.backward(of_probability);
    EXPECT_TRUE(torch::allclose(probability, want, 1e-12, 1e-14)) << G << ' ' << S << ' ' << L << ' ' << window;
    EXPECT_TRUE(torch::allclose(of_content, content.grad(), 1e-12, 1e-14)) << of_content << content.grad();
    EXPECT_TRUE(torch::allclose(of_relative, relative.grad(), 1e-12, 1e-14)) << of_relative << relative.grad();
  }
}

TEST(RelativeSoftmax, ASumHoldsTheLargestAndNan) {
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  const auto sum_of = [](const std::vector<double>& exponents) {
    SumOfExponentials<double> sum{0, 0};
    for (const double each : exponents) sum.add(each);
    return sum;
  };
  EXPECT_EQ(sum_of({}).sum, 0);
  EXPECT_DOUBLE_EQ(sum_of({1000, 1000, -1000}).sum, 2);
  EXPECT_DOUBLE_EQ(sum_of({-infinity, 3, 3}).sum, 2);
  EXPECT_DOUBLE_EQ(sum_of({-infinity, -infinity, 3, -infinity}).sum, 1);
  EXPECT_EQ(sum_of({-infinity, 3, 3}).largest, 3);
  for (const auto& exponents : std::vector<std::vector<double>>{{nan}, {nan, 1}, {1, nan}, {1, nan, 2}}) {
    const SumOfExponentials<double> sum = sum_of(exponents);
    EXPECT_TRUE(std::isnan(sum.sum) || std::isnan(sum.largest));
  }
}

}  // namespace
}  // namespace smoe
