// The plan that groups rows by expert, and the sums that it is made for.
#include "smoe/kernels/dispatch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <tuple>

#include "smoe/kernels/gather_sum.h"
#include "smoe/kernels/row_linear.h"
#include "smoe/tensor/random_stream.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

/// Everything that a plan promises, from the ids alone.
void check_plan(const at::Tensor& expert, int64_t experts) {
  const DispatchPlan plan = make_dispatch_plan(expert, experts);
  const at::Tensor ids = expert.to(torch::kInt64).contiguous();
  const int64_t T = ids.size(0), K = ids.size(1), R = plan.rows();
  const auto id = [&](int64_t t, int64_t s) { return ids[t][s].item<int64_t>(); };
  ASSERT_EQ(plan.tokens, T);
  ASSERT_EQ(plan.experts(), experts);
  ASSERT_EQ(plan.first.size(), static_cast<size_t>(experts) + 1);
  ASSERT_EQ(plan.first[0], 0);
  ASSERT_EQ(plan.row_token.sizes(), at::IntArrayRef({R}));
  ASSERT_EQ(plan.position.sizes(), at::IntArrayRef({T, K}));
  ASSERT_EQ(plan.slot.sizes(), at::IntArrayRef({T, K}));

  for (size_t e = 0; e < static_cast<size_t>(experts); ++e) {
    const int64_t count = ids.eq(static_cast<int64_t>(e)).sum().item<int64_t>();
    ASSERT_EQ(plan.count[e], count);
    const int64_t size = plan.first[e + 1] - plan.first[e];
    ASSERT_EQ(size % kRowTile, 0);
    ASSERT_GE(size, count);
    ASSERT_LT(size, count + kRowTile);  // no more than it takes; none for an expert without tokens
    int64_t before = -1;
    for (int64_t r = plan.first[e]; r < plan.first[e + 1]; ++r) {
      const int64_t token = plan.row_token[r].item<int64_t>();
      if (r - plan.first[e] >= count) {
        ASSERT_EQ(token, T);
        continue;
      }
      ASSERT_GT(token, before);  // tokens ascending
      before = token;
    }
  }
  for (int64_t t = 0; t < T; ++t) {
    std::vector<int64_t> slots;
    int64_t last = -1;
    for (int64_t s = 0; s < K; ++s) {
      const int64_t slot = plan.slot[t][s].item<int64_t>(), place = plan.position[t][s].item<int64_t>();
      slots.push_back(slot);
      const int64_t e = id(t, slot);
      if (e < 0 || e >= experts) {
        ASSERT_EQ(place, R);
        last = experts;  // nothing but empty slots after it
        continue;
      }
      ASSERT_GT(e, last);  // ascending expert id
      last = e;
      ASSERT_EQ(plan.row_token[place].item<int64_t>(), t);
      ASSERT_GE(place, plan.first[static_cast<size_t>(e)]);
      ASSERT_LT(place, plan.first[static_cast<size_t>(e)] + plan.count[static_cast<size_t>(e)]);
    }
    std::sort(slots.begin(), slots.end());
    for (int64_t s = 0; s < K; ++s) ASSERT_EQ(slots[static_cast<size_t>(s)], s);  // each slot once
  }
}

TEST(Dispatch, PlanKeepsItsPromises) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 300; ++i) {
    const MixtureCase c = random_case(random);
    SCOPED_TRACE(c.describe());
    check_plan(c.expert, c.experts());
    if (HasFatalFailure()) return;
  }
  check_plan(torch::empty({0, 3}, torch::kInt32), 2);
  check_plan(torch::empty({5, 0}, torch::kInt32), 2);
  check_plan(torch::zeros({5, 1}, torch::kInt64), 0);
}

TEST(Dispatch, PlanOfAKnownRouting) {
  const DispatchPlan plan = make_dispatch_plan(torch::tensor({{2, 0}, {-1, 2}, {3, -1}}, torch::kInt32), 3);
  EXPECT_EQ(plan.count, (std::vector<int64_t>{1, 0, 2}));
  EXPECT_EQ(plan.first, (std::vector<int64_t>{0, 16, 16, 32}));
  EXPECT_TRUE(torch::equal(plan.position, torch::tensor({{0, 16}, {17, 32}, {32, 32}}, torch::kInt64)));
  EXPECT_TRUE(torch::equal(plan.slot, torch::tensor({{1, 0}, {1, 0}, {0, 1}}, torch::kInt64)));
  EXPECT_EQ(plan.row_token[0].item<int64_t>(), 0);
  EXPECT_EQ(plan.row_token[1].item<int64_t>(), 3);  // an empty row
  EXPECT_EQ(plan.row_token[17].item<int64_t>(), 1);
}

TEST(Dispatch, CopiesRowsAndZerosTheEmptyOnes) {
  const DispatchPlan plan = make_dispatch_plan(torch::tensor({{1}, {0}, {1}}, torch::kInt32), 2);
  const at::Tensor x = torch::tensor({{1.0, 2.0}, {3.0, 4.0}, {5.0, std::nan("")}});
  const at::Tensor rows = dispatch(x, plan);
  ASSERT_EQ(rows.sizes(), at::IntArrayRef({32, 2}));
  EXPECT_TRUE(torch::equal(rows[0], x[1]));
  EXPECT_TRUE(torch::equal(rows[16], x[0]));
  EXPECT_TRUE(same_bits(rows[17], x[2]));
  EXPECT_TRUE(torch::equal(rows.narrow(0, 1, 15), torch::zeros({15, 2})));
  EXPECT_TRUE(torch::equal(rows.narrow(0, 18, 14), torch::zeros({14, 2})));
}

TEST(Dispatch, CombineOfDispatchIsTheWeightedSum) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 100; ++i) {
    const MixtureCase c = random_case(random);
    const DispatchPlan plan = make_dispatch_plan(c.expert, c.experts());
    const at::Tensor used = c.expert.ge(0).logical_and(c.expert.lt(c.experts()));
    const at::Tensor want = c.x * c.weight.masked_fill(used.logical_not(), 0).sum(-1, /*keepdim=*/true);
    ASSERT_TRUE(torch::allclose(combine(dispatch(c.x, plan), c.weight, plan), want, 1e-12, 1e-12)) << c.describe();
  }
}

TEST(Dispatch, Gradients) {
  for (const auto& [T, K, E] : {std::tuple<int64_t, int64_t, int64_t>{5, 2, 3}, {3, 1, 1}, {0, 2, 3}, {2, 3, 3}}) {
    MixtureCase c = make_case({.T = T, .K = K, .E = E, .D = 3, .H = 1}, 5);
    if (T > 3) c.expert[2][0] = -1;
    const DispatchPlan plan = make_dispatch_plan(c.expert, E);
    gradcheck([&] { return dispatch(c.x, plan); }, {{"x", c.x}});
    at::Tensor y = torch::empty({plan.rows(), 3}, torch::kFloat64);
    RandomStream(1).fill_normal(y, 0, 1);
    gradcheck([&] { return combine(y, c.weight, plan); }, {{"y", y}, {"weight", c.weight}});
  }
}

TEST(Dispatch, RefusesShapesThatDoNotFit) {
  const DispatchPlan plan = make_dispatch_plan(torch::tensor({{0}, {1}}, torch::kInt32), 2);
  const auto says = [](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  says(message_of([] { make_dispatch_plan(torch::zeros({4}, torch::kInt32), 2); }), "[T, K], got [4]");
  says(message_of([&] { dispatch(torch::zeros({3, 5}), plan); }), "x must be [T = 2, D], got [3, 5]");
  says(message_of([&] { combine(torch::zeros({3, 5}), torch::zeros({2, 1}), plan); }), "[R = 32, D], got [3, 5]");
  says(message_of([&] { combine(torch::zeros({32, 5}), torch::zeros({1, 2}), plan); }), "[2, 1], got [1, 2]");
}

TEST(GatherSum, EqualsALoopInEveryType) {
  std::mt19937_64 random(3);
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const double unit = type == at::kDouble ? 0x1p-53 : type == at::kFloat ? 0x1p-24 : 0x1p-8;
    for (int i = 0; i < 60; ++i) {
      const auto below = [&](uint64_t n) { return static_cast<int64_t>(random() % n); };
      const int64_t R = 1 + below(30), D = 1 + below(40), T = below(50), K = below(5);
      at::Tensor rows = torch::empty({R, D}, torch::kFloat64), weight = torch::empty({T, K}, torch::kFloat64);
      RandomStream(random()).fill_normal(rows, 0, 1);
      RandomStream(random()).fill_normal(weight, 0, 1);
      rows = rows.to(at::kBFloat16).to(at::kDouble);
      weight = weight.to(at::kBFloat16).to(at::kDouble);
      const at::Tensor position = torch::empty({T, K}, torch::kInt64);
      for (int64_t n = 0; n < T * K; ++n) position.data_ptr<int64_t>()[n] = below(static_cast<uint64_t>(R) + 1);
      const bool weighted = below(3) > 0;
      const at::Tensor got = gather_sum(rows.to(type), position, weighted ? weight.to(at::kFloat) : at::Tensor());
      ASSERT_EQ(got.scalar_type(), type);
      const at::Tensor padded = torch::cat({rows, torch::zeros({1, D}, torch::kFloat64)});
      at::Tensor terms = padded.index_select(0, position.view({-1})).view({T, K, D});
      if (weighted) terms = terms * weight.unsqueeze(2);
      const at::Tensor error = (got.to(at::kDouble) - terms.sum(1)).abs() - 4 * unit * terms.abs().sum(1);
      ASSERT_TRUE(error.le(0).all().item<bool>()) << type << ", R " << R << " D " << D << " T " << T << " K " << K;
    }
  }
}

TEST(GatherSum, SumsInFp32AndRoundsOnce) {
  // 256 + 1 in bf16 is 256: summing in bf16 would lose the ones.
  const at::Tensor rows = torch::tensor({{256.0}, {1.0}}).to(torch::kBFloat16);
  const at::Tensor position = torch::tensor({{0, 1, 1, 1, 1}}, torch::kInt64);
  EXPECT_EQ(gather_sum(rows, position, {}).item<float>(), 260);
}

TEST(GatherSum, RefusesOtherTypes) {
  const at::Tensor position = torch::zeros({1, 1}, torch::kInt64);
  const std::string message = message_of([&] { gather_sum(torch::zeros({1, 1}, torch::kInt32), position, {}); });
  EXPECT_NE(message.find("Int"), std::string::npos) << message;
}

}  // namespace
}  // namespace smoe
