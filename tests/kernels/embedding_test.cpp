#include "smoe/kernels/embedding.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

TEST(Embed, IsAScaledRowAndItsGradientTheSum) {
  torch::manual_seed(1);
  for (const auto& [V, D, T] : std::vector<std::array<int64_t, 3>>{{1, 1, 1}, {7, 3, 20}, {300, 130, 513}, {5, 4, 0}}) {
    for (const auto type : {torch::kFloat, torch::kDouble}) {
      const at::Tensor table = torch::randn({V, D}, type).requires_grad_(),
                       plain = table.detach().clone().requires_grad_();
      const at::Tensor token = torch::randint(V, {1, T}, torch::kLong), weight = torch::randn({1, T, D}, type);
      const at::Tensor out = embed(table, token, 1.5);
      ASSERT_EQ(out.sizes(), at::IntArrayRef({1, T, D}));
      EXPECT_TRUE(torch::allclose(out, torch::embedding(plain, token) * 1.5));
      (out * weight).sum().backward();
      (torch::embedding(plain, token) * 1.5 * weight).sum().backward();
      EXPECT_TRUE(torch::allclose(table.grad(), plain.grad(), 1e-5, 1e-5)) << V << ' ' << D << ' ' << T;
    }
  }
}

TEST(Embed, TheNumberOfThreadsDoesNotShow) {
  torch::manual_seed(2);
  const at::Tensor table = torch::randn({6, 200}).requires_grad_(), token = torch::randint(6, {4000}, torch::kLong);
  const at::Tensor weight = torch::randn({4000, 200});
  std::vector<at::Tensor> gradients;
  for (const int threads : {1, 2, 3}) {
    const testing::Threads use(threads);
    gradients.push_back(torch::autograd::grad({embed(table, token, 2)}, {table}, {weight})[0]);
    EXPECT_TRUE(torch::equal(gradients.back(), gradients[0])) << threads;
  }
}

TEST(Embed, RefusesTokensThatAreNotThere) {
  const at::Tensor table = torch::ones({3, 2});
  for (const int64_t bad : {-1, 3}) {
    const std::string message = message_of([&] { embed(table, torch::tensor({int64_t{0}, bad}), 1); });
    EXPECT_NE(message.find("tokens must be in [0, 3)"), std::string::npos) << message;
  }
  EXPECT_THROW(embed(table, torch::zeros({2}), 1), UserError);
}

TEST(Embed, Gradient) {
  const at::Tensor table = torch::randn({4, 3}, torch::kDouble), token = torch::tensor({3, 0, 3, 1}, torch::kLong);
  testing::gradcheck([&] { return embed(table, token, 1.7); }, {{"table", table}});
  testing::expect_no_second_derivative([&] { return embed(table, token, 1.7); }, {{"table", table}});
}

}  // namespace
}  // namespace smoe
