#include "smoe/moe/routers/permutation.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "smoe/tensor/random_stream.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"

namespace smoe {
namespace {

at::Tensor scores_of(int64_t n, uint64_t seed) {
  const at::Tensor out = torch::empty({n, n}, torch::kFloat64);
  RandomStream(seed).fill_normal(out, 0, 1);
  return out;
}

double total(const at::Tensor& scores, const std::vector<int64_t>& order) {
  double sum = 0;
  for (size_t i = 0; i < order.size(); ++i) sum += scores[static_cast<int64_t>(i)][order[i]].item<double>();
  return sum;
}

std::vector<int64_t> numbers(int64_t n) {
  std::vector<int64_t> out(static_cast<size_t>(n));
  std::iota(out.begin(), out.end(), 0);
  return out;
}

TEST(Permutation, TheAssignmentIsTheBestOfAll) {
  for (int64_t n = 1; n <= 6; ++n) {
    for (uint64_t seed = 1; seed <= 5; ++seed) {
      const at::Tensor scores = scores_of(n, seed);
      std::vector<int64_t> order = numbers(n), best = order;
      while (std::next_permutation(order.begin(), order.end())) {
        if (total(scores, order) > total(scores, best)) best = order;
      }
      EXPECT_EQ(best_assignment(scores), best) << n << ", seed " << seed;
    }
  }
}

TEST(Permutation, TheAssignmentIsOneWhateverItIsOf) {
  std::vector<at::Tensor> scores = {torch::zeros({9, 9}), scores_of(40, 3).to(torch::kFloat32), torch::empty({0, 0}),
                                    scores_of(7, 2) * 1e300};
  scores.push_back(scores_of(8, 4));
  scores.back()[3][5] = NAN;
  scores.back()[0][0] = INFINITY;
  scores.push_back(torch::full({5, 5}, NAN));
  for (const at::Tensor& of : scores) {
    std::vector<int64_t> order = best_assignment(of);
    std::sort(order.begin(), order.end());
    EXPECT_EQ(order, numbers(of.size(0)));
  }
  EXPECT_THROW(best_assignment(torch::zeros({2, 3})), UserError);
}

TEST(Permutation, SinkhornIsDoublyStochasticAndEndsInTheAssignment) {
  const at::Tensor scores = torch::stack({scores_of(7, 1), scores_of(7, 2)});
  const at::Tensor soft = sinkhorn(scores, 50);
  const at::Tensor ones = torch::ones({2, 7}, torch::kFloat64);
  EXPECT_TRUE(torch::allclose(soft.sum(1), ones, 0, 1e-12));
  EXPECT_TRUE(torch::allclose(soft.sum(2), ones, 0, 1e-3));
  const at::Tensor hard = sinkhorn(scores / 0.005, 2000);
  for (int64_t r = 0; r < 2; ++r) {
    const std::vector<int64_t> order = best_assignment(scores[r]);
    for (int64_t i = 0; i < 7; ++i) EXPECT_GT(hard[r][i][order[static_cast<size_t>(i)]].item<double>(), 0.5);
  }
  EXPECT_TRUE(sinkhorn(scores / 1e-7, 150).isfinite().all().item<bool>());
}

TEST(Permutation, SinkhornHasItsGradient) {
  const at::Tensor logits = scores_of(4, 5).unsqueeze(0).contiguous();
  testing::gradcheck([&] { return sinkhorn(logits, 20); }, {{"logits", logits}});
}

}  // namespace
}  // namespace smoe
