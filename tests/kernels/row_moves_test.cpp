// Rows gathered for the experts and summed up for the tokens, against loops.
#include "smoe/kernels/row_moves.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/base/temp_folder.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

/// One-hot [T · K, R]: which row stands for which slot.
at::Tensor rows_of_slots_matrix(const RowPlan& plan) {
  const int64_t slots = plan.tokens() * plan.slots();
  const at::Tensor out = torch::zeros({slots + 1, plan.rows()}, torch::kFloat64);
  for (int64_t r = 0; r < plan.rows(); ++r) out[plan.slot[r].item<int64_t>()][r] = 1;
  return out.narrow(0, 0, slots);
}

TEST(RowMoves, EqualProductsWithTheMatrixOfThePlanInEveryType) {
  std::mt19937_64 random(3);
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const double unit = type == at::kDouble ? 0x1p-53 : type == at::kFloat ? 0x1p-24 : 0x1p-8;
    const double sum_unit = type == at::kDouble ? 0x1p-53 : 0x1p-24;
    const auto expect_near = [&](const at::Tensor& got, const at::Tensor& want, const at::Tensor& error) {
      const at::Tensor excess = (got.to(at::kDouble) - want).abs() - 6 * error;
      ASSERT_TRUE(excess.le(0).all().item<bool>()) << type << ' ' << got.sizes();
    };
    for (int i = 0; i < 40; ++i) {
      const MixtureCase c = random_case(random, at::kBFloat16);
      if (c.expert.numel() > 500) continue;
      SCOPED_TRACE(c.describe());
      const RowPlan plan = make_row_plan(c.expert, c.experts(), i % 2 == 0 ? 1 : 8);
      const int64_t T = c.tokens(), K = plan.slots(), D = c.x.size(1);
      const at::Tensor matrix = rows_of_slots_matrix(plan);
      const at::Tensor of_slots = c.x.repeat_interleave(K, 0);  // [T · K, D]
      EXPECT_TRUE(torch::equal(gather_rows(c.x.to(type), plan).to(at::kDouble), matrix.t().mm(of_slots)));

      const at::Tensor rows = normal_values({plan.rows(), D}, random(), at::kBFloat16), weight = c.weight;
      const at::Tensor terms = matrix.mm(rows).view({T, K, D}), weighted = terms * weight.unsqueeze(2);
      const at::Tensor typed = rows.to(type);
      expect_near(combine_rows(typed, weight.to(at::kFloat), plan), weighted.sum(1), unit * weighted.abs().sum(1));
      expect_near(combine_rows(typed, {}, plan), terms.sum(1), unit * terms.abs().sum(1));

      const at::Tensor g = normal_values({T, D}, random(), at::kBFloat16), g_terms = g.unsqueeze(1) * terms;
      const auto [of_rows, of_weight] = combine_rows_backward(g.to(type), typed, weight.to(at::kFloat), plan);
      const at::Tensor want_rows = matrix.t().mm((g.unsqueeze(1) * weight.unsqueeze(2)).reshape({T * K, D}));
      expect_near(of_rows, want_rows, unit * want_rows.abs());
      expect_near(of_weight, g_terms.sum(-1), sum_unit * static_cast<double>(D) * g_terms.abs().sum(-1));
      EXPECT_FALSE(combine_rows_backward(g.to(type), {}, weight, plan).second.defined());

      EXPECT_TRUE(torch::equal(weight_of_rows(weight, plan), matrix.t().mm(weight.view({-1, 1})).squeeze(1)));
      const at::Tensor value = torch::arange(1, plan.rows() + 1, torch::kFloat64);
      EXPECT_TRUE(torch::equal(slots_of_rows(value, plan).view({-1}), matrix.mm(value.unsqueeze(1)).squeeze(1)));
    }
  }
}

TEST(RowMoves, SumInFp32AndRoundOnce) {
  // 256 + 1 in bf16 is 256: summing in bf16 would lose the ones.
  const RowPlan plan = make_row_plan(torch::arange(5, torch::kInt32).view({1, 5}), 5, 1);
  const at::Tensor rows = torch::tensor({256.0, 1.0, 1.0, 1.0, 1.0}).view({5, 1}).to(torch::kBFloat16);
  EXPECT_EQ(combine_rows(rows, {}, plan).item<float>(), 260);
}

TEST(RowMoves, APlanMadeByHandCannotReachOutside) {
  const auto ints = [](const std::vector<int>& values) { return torch::tensor(values, torch::kInt32); };
  const RowPlan plan{.offsets = {}, .slot = ints({0, 99, -7}), .place = ints({0, 50, -1, 1}).view({2, 2})};
  const at::Tensor x = torch::ones({2, 3});
  EXPECT_TRUE(torch::equal(gather_rows(x, plan).sum(1), torch::tensor({3.0f, 0.0f, 0.0f})));
  EXPECT_TRUE(
      torch::equal(combine_rows(torch::ones({3, 3}), torch::ones({2, 2}), plan).sum(1), torch::tensor({3.0f, 0.0f})));
  EXPECT_EQ(combine_rows_backward(x, torch::ones({3, 3}), {}, plan).second.sum().item<float>(), 3);
}

TEST(RowMoves, RefuseOtherTypes) {
  const RowPlan plan = make_row_plan(torch::zeros({1, 1}, torch::kInt32), 1, 1);
  const std::string message = message_of([&] { combine_rows(torch::zeros({1, 1}, torch::kInt32), {}, plan); });
  EXPECT_NE(message.find("cannot be Int"), std::string::npos) << message;
}

}  // namespace
}  // namespace smoe
