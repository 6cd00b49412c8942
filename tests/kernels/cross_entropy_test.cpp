#include "smoe/kernels/cross_entropy.h"

#include <gtest/gtest.h>
#include <torch/nn/functional/loss.h>

#include <cmath>
#include <limits>

#include "smoe/base/error.h"
#include "tests/kernels/gradcheck.h"

namespace smoe {
namespace {

TEST(CrossEntropy, IsLibTorchs) {
  torch::manual_seed(1);
  for (const auto& [T, V] : std::vector<std::array<int64_t, 2>>{{1, 1}, {1, 5}, {7, 2}, {513, 204}}) {
    for (const double size : {1.0, 100.0}) {
      const at::Tensor logits = (torch::randn({T, V}) * size).requires_grad_();
      const at::Tensor plain = logits.detach().clone().requires_grad_(), target = torch::randint(V, {T}, torch::kLong);
      const at::Tensor loss = mean_cross_entropy(logits, target),
                       want = torch::nn::functional::cross_entropy(plain, target);
      EXPECT_NEAR(loss.item<double>(), want.item<double>(), 1e-5 * (1 + std::abs(want.item<double>())));
      (loss * 3).backward();
      (want * 3).backward();
      EXPECT_TRUE(torch::allclose(logits.grad(), plain.grad(), 1e-4, 1e-7)) << T << ' ' << V << ' ' << size;
    }
  }
}

TEST(CrossEntropy, Gradient) {
  torch::manual_seed(2);
  const at::Tensor logits = torch::randn({3, 4}, torch::kDouble), target = torch::tensor({2, 0, 2}, torch::kLong);
  testing::gradcheck([&] { return mean_cross_entropy(logits, target); }, {{"logits", logits}});
}

TEST(CrossEntropy, SecondDerivative) {
  torch::manual_seed(3);
  const at::Tensor logits = torch::randn({3, 4}, torch::kDouble).requires_grad_(),
                   plain = logits.detach().clone().requires_grad_();
  const at::Tensor target = torch::tensor({2, 0, 2}, torch::kLong), direction = torch::randn({3, 4}, torch::kDouble);
  const auto along = [&](const at::Tensor& loss, const at::Tensor& at) {
    const at::Tensor gradient = torch::autograd::grad({loss.exp()}, {at}, {}, true, /*create_graph=*/true)[0];
    return torch::autograd::grad({(gradient * direction).sum()}, {at})[0];
  };
  EXPECT_TRUE(torch::allclose(along(mean_cross_entropy(logits, target), logits),
                              along(torch::nn::functional::cross_entropy(plain, target), plain), 1e-10, 1e-12));
}

TEST(CrossEntropy, SaysWhatIsNotANumber) {
  at::Tensor logits = torch::zeros({2, 3});
  const at::Tensor target = torch::tensor({0, 1}, torch::kLong);
  logits[1][0] = std::nanf("");
  EXPECT_TRUE(std::isnan(mean_cross_entropy(logits, target).item<float>()));
  logits[1][0] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(std::isfinite(mean_cross_entropy(logits, target).item<float>()));
  EXPECT_TRUE(std::isnan(mean_cross_entropy(torch::zeros({0, 3}), torch::zeros({0}, torch::kLong)).item<float>()));
}

TEST(CrossEntropy, RefusesShapesAndTargets) {
  EXPECT_THROW(mean_cross_entropy(torch::zeros({2, 3}), torch::zeros({3}, torch::kLong)), UserError);
  EXPECT_ANY_THROW(mean_cross_entropy(torch::zeros({2, 3}), torch::full({2}, 3, torch::kLong)));
}

}  // namespace
}  // namespace smoe
