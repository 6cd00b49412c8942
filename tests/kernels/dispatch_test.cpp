// The operators dispatch and combine.
#include "smoe/kernels/dispatch.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <random>
#include <tuple>

#include "smoe/tensor/random_stream.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

TEST(Dispatch, CopiesRowsAndZerosTheEmptyOnes) {
  const at::Tensor x = torch::tensor({{1.0, 2.0}, {3.0, 4.0}, {5.0, std::nan("")}});
  const auto [rows, plan] = dispatch(x, torch::tensor({{1, -1}, {0, 7}, {1, -1}}, torch::kInt32), 2);
  ASSERT_EQ(rows.sizes(), at::IntArrayRef({6, 2}));
  EXPECT_TRUE(torch::equal(rows[0], x[1]));
  EXPECT_TRUE(torch::equal(rows[1], x[0]));
  EXPECT_TRUE(same_bits(rows[2], x[2]));
  EXPECT_TRUE(torch::equal(rows.narrow(0, 3, 3), torch::zeros({3, 2})));
  EXPECT_EQ(plan.offsets[2].item<int64_t>(), 3);
}

TEST(Dispatch, CombineOfDispatchIsTheWeightedSum) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 100; ++i) {
    const MixtureCase c = random_case(random);
    const auto [rows, plan] = dispatch(c.x, c.expert, c.experts(), i % 2 == 0 ? 1 : 16);
    const at::Tensor used = c.expert.ge(0).logical_and(c.expert.lt(c.experts()));
    const at::Tensor weight = c.weight.masked_fill(used.logical_not(), 0);
    const at::Tensor want = c.x * weight.sum(-1, /*keepdim=*/true), count = c.x * used.sum(-1, /*keepdim=*/true);
    ASSERT_TRUE(torch::allclose(combine(rows, c.weight, plan), want, 1e-12, 1e-12)) << c.describe();
    ASSERT_TRUE(torch::allclose(combine(rows, {}, plan), count, 1e-12, 1e-12)) << c.describe();
  }
}

TEST(Dispatch, Gradients) {
  for (const auto& [T, K, E] : {std::tuple<int64_t, int64_t, int64_t>{5, 2, 3}, {3, 1, 1}, {0, 2, 3}, {2, 3, 3}}) {
    for (const int64_t align : {1, 4}) {
      MixtureCase c = make_case({.T = T, .K = K, .E = E, .D = 3, .H = 1}, 5);
      if (T > 3) c.expert[2][0] = -1;
      gradcheck([&, e = E] { return dispatch(c.x, c.expert, e, align).rows; }, {{"x", c.x}});
      const RowPlan plan = dispatch(c.x, c.expert, E, align).plan;
      at::Tensor y = torch::empty({plan.rows(), 3}, torch::kFloat64);
      RandomStream(1).fill_normal(y, 0, 1);
      gradcheck([&] { return combine(y, c.weight, plan); }, {{"rows", y}, {"weight", c.weight}});
      gradcheck([&] { return combine(y, {}, plan); }, {{"rows", y}});
    }
  }
}

TEST(Dispatch, GradientsHaveTheTypesOfTheirInputs) {
  MixtureCase c = make_case({.T = 6, .K = 2, .E = 3, .D = 4, .H = 1}, 6).to(at::kBFloat16, at::kFloat);
  c.x.set_requires_grad(true);
  c.weight.set_requires_grad(true);
  const auto [rows, plan] = dispatch(c.x, c.expert, 3);
  EXPECT_FALSE(plan.slot.requires_grad() || plan.place.requires_grad() || plan.offsets.requires_grad());
  combine(rows, c.weight, plan).sum().backward();
  EXPECT_EQ(c.x.grad().scalar_type(), at::kBFloat16);
  EXPECT_EQ(c.weight.grad().scalar_type(), at::kFloat);
}

TEST(Dispatch, ASecondDerivativeIsRefusedNotWrong) {
  MixtureCase c = make_case({.T = 3, .K = 2, .E = 3, .D = 2, .H = 1}, 7);
  c.x.set_requires_grad(true);
  c.weight.set_requires_grad(true);
  const auto [rows, plan] = dispatch(c.x, c.expert, 3);
  const at::Tensor g =
      torch::autograd::grad({combine(rows, c.weight, plan).square().sum()}, {c.weight}, {}, true, true)[0];
  EXPECT_THROW(g.sum().backward(), std::exception);
}

TEST(Dispatch, ShapesAreKnownWithoutNumbers) {
  const auto meta = torch::TensorOptions().device(torch::kMeta);
  const auto [rows, plan] = dispatch(torch::empty({7, 5}, meta), torch::empty({7, 2}, meta.dtype(torch::kInt32)), 4);
  EXPECT_EQ(rows.sizes(), at::IntArrayRef({14, 5}));
  EXPECT_EQ(plan.offsets.sizes(), at::IntArrayRef({5}));
  EXPECT_EQ(plan.slot.sizes(), at::IntArrayRef({14}));
  EXPECT_EQ(plan.place.sizes(), at::IntArrayRef({7, 2}));
  EXPECT_EQ(combine(rows, torch::empty({7, 2}, meta), plan).sizes(), at::IntArrayRef({7, 5}));
}

TEST(Dispatch, RefusesShapesThatDoNotFit) {
  const at::Tensor ids = torch::tensor({{0}, {1}}, torch::kInt32);
  const RowPlan plan = dispatch(torch::zeros({2, 5}), ids, 2, 16).plan;
  const auto says = [](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  says(message_of([&] { dispatch(torch::zeros({3, 5}), ids, 2); }), "got [3, 5] and [2, 1]");
  says(message_of([&] { combine(torch::zeros({3, 5}), torch::zeros({2, 1}), plan); }), "[R = 32, D], got [3, 5]");
  says(message_of([&] { combine(torch::zeros({32, 5}), torch::zeros({1, 2}), plan); }), "[2, 1], got [1, 2]");
  RowPlan wide = plan;
  wide.slot = plan.slot.to(torch::kInt64);
  says(message_of([&] { combine(torch::zeros({32, 5}), {}, wide); }), "slot must be int32 [R]");
}

}  // namespace
}  // namespace smoe
