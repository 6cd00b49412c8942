#include "smoe/moe/routers/smooth_tree.h"

#include "tests/kernels/gradcheck.h"
#include "tests/moe/router_case.h"

namespace smoe {
namespace {

at::Tensor points(double from, double to, int64_t count) { return torch::linspace(from, to, count, torch::kFloat64); }

TEST(SmoothTree, TheStepIsItsPolynomial) {
  for (const double gamma : {0.01, 1.0, 10.0}) {
    const at::Tensor t = points(-gamma / 2, gamma / 2, 41);
    const at::Tensor want = -2 * t.pow(3) / std::pow(gamma, 3) + 3 * t / (2 * gamma) + 0.5;
    EXPECT_TRUE(torch::allclose(smooth_step(t, gamma), want, 1e-12, 1e-14)) << gamma;
  }
}

TEST(SmoothTree, TheStepIsExactBeyondItsWidth) {
  for (const auto dtype : {torch::kFloat32, torch::kFloat64}) {
    const at::Tensor far = torch::tensor({0.5, 0.500001, 3.0, 1e30}, dtype);
    EXPECT_TRUE(smooth_step(far, 1).eq(1).all().item<bool>());
    EXPECT_TRUE(smooth_step(-far, 1).eq(0).all().item<bool>());
    const at::Tensor near = smooth_step(points(-0.51, 0.51, 10001).to(dtype), 1);
    EXPECT_TRUE(near.ge(0).logical_and(near.le(1)).all().item<bool>());
  }
}

TEST(SmoothTree, TheStepHasAContinuousDerivative) {
  const at::Tensor t = torch::tensor({-0.7, -0.5, -0.499, -0.2, 0.0, 0.3, 0.499, 0.5, 0.8}, torch::kFloat64);
  testing::gradcheck([&] { return smooth_step(t, 1); }, {{"t", t}}, {.step = 1e-6, .tolerance = 1e-5});
  t.mutable_grad() = at::Tensor();
  smooth_step(t, 1).sum().backward();
  EXPECT_EQ(t.grad()[1].item<double>(), 0);
  EXPECT_EQ(t.grad()[7].item<double>(), 0);
  EXPECT_NEAR(t.grad()[4].item<double>(), 1.5, 1e-12);
}

TEST(SmoothTree, LeavesSumToOneForAnyNumberOfThem) {
  for (const int64_t n : {1, 2, 3, 5, 6, 7, 8, 16, 17}) {
    for (const int64_t T : {0, 1, 20}) {
      const at::Tensor left = torch::rand({T, 3, n - 1}, torch::kFloat64);
      const at::Tensor v = leaf_probabilities(left);
      ASSERT_EQ(v.sizes(), at::IntArrayRef({T, 3, n}));
      EXPECT_TRUE(torch::allclose(v.sum(-1), torch::ones({T, 3}, torch::kFloat64), 0, 1e-14)) << n;
      EXPECT_TRUE(v.gt(0).all().item<bool>());
      const at::Tensor hard = leaf_probabilities(left.gt(0.5).to(torch::kFloat64));
      EXPECT_TRUE(hard.eq(1).sum(-1).eq(1).all().item<bool>()) << "a saturated tree has one leaf: " << n;
      EXPECT_TRUE(hard.eq(0).sum(-1).eq(n - 1).all().item<bool>());
    }
  }
}

TEST(SmoothTree, EveryLeafIsReached) {
  // All splits to the left lead to the leaf furthest left, and each leaf has a way to it.
  const int64_t n = 6;
  at::Tensor reached = torch::zeros({n}, torch::kFloat64);
  for (int64_t way = 0; way < 32; ++way) {
    const at::Tensor left = torch::arange(n - 1).bitwise_right_shift(0);
    const at::Tensor bits = torch::full({n - 1}, way).bitwise_right_shift(left).bitwise_and(1);
    reached += leaf_probabilities(bits.to(torch::kFloat64).view({1, 1, n - 1})).view({n});
  }
  // Of the 32 ways, a leaf at depth 3 has 4 and one at depth 2 has 8; nodes 5 and 6 are at depth 2.
  EXPECT_TRUE(torch::equal(reached, torch::tensor({8, 8, 4, 4, 4, 4}, torch::kFloat64))) << reached;
}

}  // namespace
}  // namespace smoe
