#include "smoe/moe/select.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"

namespace smoe {
namespace {

using testing::gradcheck;

at::Tensor scores_of(int64_t tokens, int64_t experts, uint64_t seed) {
  at::Tensor out = torch::empty({tokens, experts}, torch::kFloat64);
  RandomStream(seed).fill_normal(out, 0, 1);
  return out;
}

TEST(Select, TheExampleOfTheSpecification) {
  const at::Tensor logits = torch::tensor({{0.3, -0.1, 0.5, 0.2}}, torch::kFloat64);
  const Selection selection = select_top_k(logits, 2);
  EXPECT_EQ(selection.expert.scalar_type(), torch::kInt32);
  EXPECT_TRUE(torch::equal(selection.expert, torch::tensor({{2, 0}}, torch::kInt32)));
  const at::Tensor weight = softmax_over_selected(selection);
  EXPECT_NEAR(weight[0][0].item<double>(), 0.549834, 1e-6);
  EXPECT_NEAR(weight[0][1].item<double>(), 0.450166, 1e-6);
  // The other order, softmax first, gives other weights, which do not sum to 1.
  const at::Tensor other = std::get<0>(torch::softmax(logits, -1).topk(2, -1));
  EXPECT_GT((weight - other).abs().max().item<double>(), 0.1);
  EXPECT_LT(other.sum().item<double>(), 0.7);
}

TEST(Select, TakesTheLargestInFallingOrderAtEveryK) {
  const at::Tensor scores = scores_of(40, 7, 1);
  for (int64_t k = 1; k <= 7; ++k) {
    const Selection selection = select_top_k(scores, k);
    ASSERT_EQ(selection.expert.sizes(), at::IntArrayRef({40, k}));
    EXPECT_TRUE(torch::equal(selection.score, scores.gather(1, selection.expert.to(torch::kInt64))));
    const at::Tensor sorted = std::get<0>(scores.sort(-1, /*descending=*/true)).narrow(1, 0, k);
    EXPECT_TRUE(torch::equal(selection.score, sorted)) << k;
    const at::Tensor weight = softmax_over_selected(selection);
    EXPECT_TRUE(torch::allclose(weight.sum(-1), torch::ones({40}, torch::kFloat64), 0, 1e-14));
    EXPECT_TRUE(weight.gt(0).all().item<bool>());
  }
  EXPECT_TRUE(torch::equal(softmax_over_selected(select_top_k(scores, 1)), torch::ones({40, 1}, torch::kFloat64)));
}

TEST(Select, OfEqualScoresTheLowerIdComesFirstWhereThatIsAsked) {
  const at::Tensor scores = torch::tensor({{1.0, 2.0, 2.0, 1.0, 2.0}, {0.0, 0.0, 0.0, 0.0, 0.0}}, torch::kFloat64);
  const at::Tensor want = torch::tensor({{1, 2, 4, 0, 3}, {0, 1, 2, 3, 4}}, torch::kInt32);
  for (const int64_t k : {1, 3, 5}) {
    EXPECT_TRUE(torch::equal(select_top_k(scores, k, Ties::kLowerId).expert, want.narrow(1, 0, k))) << k;
  }
  const Selection mixed = select_top_k(scores, ActiveK(torch::tensor({3, 1}, torch::kInt32)), Ties::kLowerId);
  EXPECT_TRUE(torch::equal(mixed.expert, torch::tensor({{1, 2, 4}, {0, -1, -1}}, torch::kInt32)));
  const at::Tensor different = scores_of(30, 9, 4);
  EXPECT_TRUE(torch::equal(select_top_k(different, 4, Ties::kLowerId).expert, select_top_k(different, 4).expert));
}

TEST(Select, TakesWhatIsAboveAThreshold) {
  const at::Tensor scores = torch::tensor({{0.0, 0.2, 0.0}, {0.5, 0.1, 0.4}, {0.0, 0.0, 0.0}}, torch::kFloat64);
  const Selection above = select_above(scores, 0);
  EXPECT_TRUE(torch::equal(above.expert, torch::tensor({{1, -1, -1}, {0, 2, 1}, {-1, -1, -1}}, torch::kInt32)));
  EXPECT_TRUE(torch::equal(weigh_by_score(above).sum(-1), scores.sum(-1)));
  EXPECT_TRUE(torch::equal(select_above(scores, 0.4).expert, torch::tensor({{-1}, {0}, {-1}}, torch::kInt32)));
  EXPECT_EQ(select_above(scores, 1).expert.sizes(), at::IntArrayRef({3, 1}));
  EXPECT_EQ(select_above(scores.narrow(0, 0, 0), 0).expert.sizes(), at::IntArrayRef({0, 1}));
  const at::Tensor bad = torch::tensor({{0.1, std::nan("")}}, torch::kFloat64);
  EXPECT_EQ(select_above(bad, 0.5).expert.ge(0).sum().item<int64_t>(), 1);
}

TEST(Select, KPerTokenEqualsUniformKRowByRow) {
  const at::Tensor scores = scores_of(60, 5, 2);
  const at::Tensor k = torch::arange(60).remainder(6).to(torch::kInt32);  // 0 … 5
  const Selection mixed = select_top_k(scores, ActiveK(k));
  const at::Tensor weight = softmax_over_selected(mixed);
  ASSERT_EQ(mixed.expert.sizes(), at::IntArrayRef({60, 5}));
  for (int64_t t = 0; t < 60; ++t) {
    const int64_t own = k[t].item<int64_t>();
    EXPECT_TRUE(mixed.expert[t].narrow(0, own, 5 - own).eq(-1).all().item<bool>());
    EXPECT_TRUE(weight[t].narrow(0, own, 5 - own).eq(0).all().item<bool>());
    if (own == 0) continue;
    const Selection uniform = select_top_k(scores.narrow(0, t, 1), own);
    EXPECT_TRUE(torch::equal(mixed.expert[t].narrow(0, 0, own), uniform.expert[0]));
    EXPECT_TRUE(torch::allclose(weight[t].narrow(0, 0, own), softmax_over_selected(uniform)[0], 0, 1e-15));
  }
}

TEST(Select, NoTokensAndNoExpertForAnyToken) {
  EXPECT_EQ(select_top_k(scores_of(0, 4, 3), 2).expert.sizes(), at::IntArrayRef({0, 2}));
  const Selection none = select_top_k(scores_of(0, 4, 3), ActiveK(torch::empty({0}, torch::kInt32)));
  EXPECT_EQ(none.expert.sizes(), at::IntArrayRef({0, 0}));
  const Selection idle = select_top_k(scores_of(3, 4, 3), ActiveK(torch::zeros({3}, torch::kInt32)));
  EXPECT_EQ(idle.expert.sizes(), at::IntArrayRef({3, 0}));
  EXPECT_EQ(softmax_over_selected(idle).sizes(), at::IntArrayRef({3, 0}));
}

TEST(Select, EmptySlotsMayStandAnywhere) {
  Selection selection{torch::tensor({{-1, 3, 0}, {-1, -1, -1}, {2, -1, 1}}, torch::kInt32),
                      torch::tensor({{9.0, 1.0, 2.0}, {1.0, 2.0, 3.0}, {0.5, 80.0, 0.5}}, torch::kFloat64)};
  const at::Tensor weight = softmax_over_selected(selection);
  const double e = std::exp(1.0);
  const at::Tensor want =
      torch::tensor({{0.0, 1 / (1 + e), e / (1 + e)}, {0.0, 0.0, 0.0}, {0.5, 0.0, 0.5}}, torch::kFloat64);
  EXPECT_TRUE(torch::allclose(weight, want, 0, 1e-15)) << weight;
}

TEST(Select, Gradients) {
  const at::Tensor scores = scores_of(6, 4, 4);
  for (int64_t k = 1; k <= 4; ++k) {
    gradcheck([&] { return softmax_over_selected(select_top_k(scores, k)); }, {{"scores", scores}});
  }
  const at::Tensor mixed = torch::tensor({0, 1, 2, 3, 4, 2}, torch::kInt32);
  gradcheck([&] { return softmax_over_selected(select_top_k(scores, ActiveK(mixed))); }, {{"scores", scores}});
}

TEST(Select, RefusesKOutOfRange) {
  const at::Tensor scores = scores_of(3, 4, 5);
  for (const int64_t k : {-1, 0, 5}) {
    const std::string message = message_of([&] { select_top_k(scores, k); });
    EXPECT_NE(message.find("between 1 and the number of experts, 4, got " + std::to_string(k)), std::string::npos);
  }
  const auto per_token = [&](std::vector<int32_t> k) {
    return message_of([&] { select_top_k(scores, ActiveK(torch::tensor(k, torch::kInt32))); });
  };
  EXPECT_NE(per_token({1, 5, 2}).find("between 0 and the number of experts, 4"), std::string::npos);
  EXPECT_NE(per_token({1, -1, 2}).find("between 0 and the number of experts, 4"), std::string::npos);
  EXPECT_NE(per_token({1, 2}).find("must be [T = 3], got [2]"), std::string::npos);
}

TEST(Weigh, ByScoreShareAndEqually) {
  const Selection selection = {torch::tensor({{2, -1, 0}, {-1, -1, -1}}, torch::kInt32),
                               torch::tensor({{0.3, 7.0, 0.1}, {1.0, 2.0, 3.0}}, torch::kFloat64)};
  const auto row = [](double a, double b, double c) {
    return torch::tensor({{a, b, c}, {0.0, 0.0, 0.0}}, torch::kFloat64);
  };
  EXPECT_TRUE(torch::allclose(weigh_by_score(selection), row(0.3, 0, 0.1)));
  EXPECT_TRUE(torch::allclose(weigh_by_share(selection), row(0.75, 0, 0.25)));
  EXPECT_TRUE(torch::allclose(weigh_equally(selection.expert, selection.score), row(0.5, 0, 0.5)));
  // Scores that have all rounded to nothing weigh nothing, and are not divided.
  const Selection nothing = {torch::tensor({{0, 1}}, torch::kInt32), torch::zeros({1, 2})};
  EXPECT_TRUE(torch::equal(weigh_by_share(nothing), torch::zeros({1, 2})));
}

TEST(Select, ScoresOfExpertsThatSomethingElseChose) {
  const at::Tensor scores = torch::arange(6).view({2, 3}).to(torch::kFloat32);
  const Selection selection = with_scores(torch::tensor({{2, 0}, {1, -1}}, torch::kInt32), scores);
  EXPECT_TRUE(torch::equal(weigh_by_score(selection), torch::tensor({{2.0F, 0.0F}, {4.0F, 0.0F}})));
}

}  // namespace
}  // namespace smoe
