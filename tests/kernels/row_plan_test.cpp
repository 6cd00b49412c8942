// The plan that groups a routing's slots by expert.
#include "smoe/kernels/row_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "tests/base/temp_folder.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

at::Tensor ints(const std::vector<int>& values) { return torch::tensor(values, torch::kInt32); }

/// Everything that a plan promises, from the ids alone.
void check_plan(const RowPlan& plan, const at::Tensor& expert, int64_t experts, int64_t align) {
  const at::Tensor ids = expert.to(torch::kInt64).contiguous();
  const int64_t T = ids.size(0), K = ids.size(1), R = plan.rows();
  ASSERT_EQ(R, rows_of_slots(T * K, experts, align));
  ASSERT_TRUE(align > 1 || R == T * K);
  ASSERT_EQ(plan.offsets.sizes(), at::IntArrayRef({experts + 1}));
  ASSERT_EQ(plan.place.sizes(), at::IntArrayRef({T, K}));
  for (const at::Tensor& each : {plan.offsets, plan.slot, plan.place}) ASSERT_EQ(each.scalar_type(), torch::kInt32);
  const int64_t* id = ids.data_ptr<int64_t>();
  const int32_t *offset = plan.offsets.data_ptr<int32_t>(), *slot = plan.slot.data_ptr<int32_t>();
  const at::Tensor place_tensor = plan.place.contiguous();
  const int32_t* place = place_tensor.data_ptr<int32_t>();

  ASSERT_EQ(offset[0], 0);
  ASSERT_LE(offset[experts], R);
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t count = std::count(id, id + T * K, e);
    const int64_t size = offset[e + 1] - offset[e];
    ASSERT_EQ(size, (count + align - 1) / align * align) << "expert " << e;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t row = offset[e] + i;
      ASSERT_EQ(slot[row] < T * K, i < count) << "row " << row;
      if (i >= count) continue;
      ASSERT_EQ(id[slot[row]], e);
      ASSERT_TRUE(i == 0 || slot[row] > slot[row - 1]);  // tokens ascending
    }
  }
  for (int64_t row = offset[experts]; row < R; ++row) ASSERT_EQ(slot[row], T * K);
  for (int64_t t = 0; t < T; ++t) {
    const int64_t used = std::count_if(id + t * K, id + (t + 1) * K, [&](int64_t e) { return e >= 0 && e < experts; });
    for (int64_t i = 0; i < K; ++i) {
      const int32_t here = place[t * K + i];
      if (i >= used) {
        ASSERT_EQ(here, R);
        continue;
      }
      ASSERT_LT(here, R);
      ASSERT_EQ(slot[here] / K, t);
      ASSERT_TRUE(i == 0 || here > place[t * K + i - 1]);  // ascending expert id
    }
  }
}

void check_both(const at::Tensor& expert, int64_t experts) {
  for (const int64_t align : {1, 8, 16}) {
    check_plan(make_row_plan(expert, experts, align), expert, experts, align);
    check_plan(row_plan_by_sorting(expert, experts, align), expert, experts, align);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

TEST(RowPlan, KeepsItsPromisesByCountingAndBySorting) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 300; ++i) {
    const MixtureCase c = random_case(random);
    SCOPED_TRACE(c.describe());
    check_both(c.expert, c.experts());
    if (HasFatalFailure()) return;
  }
}

TEST(RowPlan, OfNothing) {
  check_both(torch::empty({0, 3}, torch::kInt32), 2);
  check_both(torch::empty({5, 0}, torch::kInt32), 2);
  check_both(torch::zeros({5, 1}, torch::kInt64), 0);
  check_both(torch::full({4, 2}, -1, torch::kInt32), 3);
  check_both(torch::full({70, 1}, 2, torch::kInt64), 3);
  check_both(torch::full({3, 1}, std::numeric_limits<int64_t>::max(), torch::kInt64), 3);
  check_both(torch::full({3, 1}, std::numeric_limits<int64_t>::min(), torch::kInt64), 3);
}

TEST(RowPlan, OfAKnownRouting) {
  const at::Tensor expert = ints({2, 0, -1, 2, 3, -1}).view({3, 2});
  const RowPlan plan = make_row_plan(expert, 3, 1);
  EXPECT_TRUE(torch::equal(plan.offsets, ints({0, 1, 1, 3})));
  EXPECT_TRUE(torch::equal(plan.slot, ints({1, 0, 3, 6, 6, 6})));
  EXPECT_TRUE(torch::equal(plan.place, ints({0, 1, 2, 6, 6, 6}).view({3, 2})));
  const RowPlan tiled = make_row_plan(expert, 3, 4);
  EXPECT_TRUE(torch::equal(tiled.offsets, ints({0, 4, 4, 8})));
  EXPECT_TRUE(torch::equal(tiled.slot.narrow(0, 0, 8), ints({1, 6, 6, 6, 0, 3, 6, 6})));
  EXPECT_TRUE(torch::equal(tiled.place[0], ints({0, 4})));
}

TEST(RowPlan, TakesIdsThatAreNotContiguous) {
  const at::Tensor expert = torch::arange(12, torch::kInt32).view({3, 4}).t();
  check_both(expert, 7);
}

TEST(RowPlan, RefusesWhatDoesNotFit) {
  const auto says = [](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  says(message_of([] { make_row_plan(torch::zeros({4}, torch::kInt32), 2, 1); }), "[T, K], got [4]");
  says(message_of([] { make_row_plan(torch::zeros({4, 1}), 2, 1); }), "int32 or int64, got Float");
  says(message_of([] { make_row_plan(ints({0}).view({1, 1}), -1, 1); }), "-1 experts");
  says(message_of([] { make_row_plan(ints({0}).view({1, 1}), 1, 0); }), "align must be in [1, 4096], got 0");
  const at::Tensor huge = torch::zeros({1, 1}, torch::kInt32).expand({int64_t{1} << 20, int64_t{1} << 12});
  says(message_of([&] { make_row_plan(huge, 1, 1); }), "too many for one call");
}

}  // namespace
}  // namespace smoe
