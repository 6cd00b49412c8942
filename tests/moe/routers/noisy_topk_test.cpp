#include <cmath>

#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::make_router;
using testing::router_config;
using testing::router_input;
using testing::router_tokens;

constexpr int64_t kE = 6, kT = 40;

std::shared_ptr<Router> noisy_router() {
  const auto router = make_router("noisy_topk", kE);
  router->to(torch::kFloat64);
  RandomStream(3).fill_normal(router->named_parameters()["noise_weight"], 0, 0.3);
  return router;
}

RouteInput training_input(int64_t k) {
  RouteInput input = router_input(router_tokens(kT).to(torch::kFloat64), {.k = k});
  input.training = true;
  return input;
}

double squared_variation(const std::vector<double>& values) {
  double mean = 0, square = 0;
  for (const double value : values) mean += value / static_cast<double>(values.size());
  for (const double value : values) square += (value - mean) * (value - mean) / static_cast<double>(values.size());
  return square / (mean * mean);
}

/// softplus and all else, number by number.
double deviation_of(const RouteInput& input, const at::Tensor& noise_weight, int64_t t, int64_t e) {
  return std::log1p(std::exp(torch::dot(input.x[t], noise_weight[e]).item<double>())) + 0.01;
}

TEST(NoisyTopk, AddsNoiseOfItsOwnSizeInTraining) {
  const auto router = noisy_router();
  const auto p = router->named_parameters();
  const RouteInput input = training_input(2);
  const at::Tensor noisy = router->route(input).logits.value;
  at::Tensor noise = torch::empty({kT, kE}, torch::kFloat64);
  input.random.at("noise").fill_normal(noise, 0, 1);
  for (int64_t t = 0; t < kT; ++t) {
    for (int64_t e = 0; e < kE; ++e) {
      const double clean = torch::dot(input.x[t], p["weight"][e]).item<double>();
      const double want = clean + deviation_of(input, p["noise_weight"], t, e) * noise[t][e].item<double>();
      ASSERT_NEAR(noisy[t][e].item<double>(), want, 1e-10);
    }
  }
  RouteInput still = input;
  still.training = false;
  EXPECT_TRUE(torch::allclose(router->route(still).logits.value, torch::linear(input.x, p["weight"]), 1e-10, 1e-10));
}

TEST(NoisyTopk, LossesAreTheFormulas) {
  const auto router = noisy_router();
  const auto p = router->named_parameters();
  for (const int64_t k : {1, 2, 5, 6}) {
    const RouteInput input = training_input(k);
    const Routing routing = router->route(input);
    const at::Tensor noisy = routing.logits.value, dense = testing::dense_weights(routing, kE);
    std::vector<double> importance(kE), load(kE);
    for (int64_t t = 0; t < kT; ++t) {
      for (int64_t e = 0; e < kE; ++e) {
        importance[static_cast<size_t>(e)] += dense[t][e].item<double>();
        std::vector<double> others;
        for (int64_t o = 0; o < kE; ++o) {
          if (o != e) others.push_back(noisy[t][o].item<double>());
        }
        std::sort(others.rbegin(), others.rend());
        const double clean = torch::dot(input.x[t], p["weight"][e]).item<double>();
        const double chance = k == kE
                                  ? 1
                                  : 0.5 * std::erfc(-(clean - others[static_cast<size_t>(k - 1)]) /
                                                    (deviation_of(input, p["noise_weight"], t, e) * std::sqrt(2.0)));
        load[static_cast<size_t>(e)] += chance;
      }
    }
    EXPECT_NEAR(routing.terms.at("noisy_topk.importance").value.item<double>(), squared_variation(importance), 1e-8);
    EXPECT_NEAR(routing.terms.at("noisy_topk.load").value.item<double>(), squared_variation(load), 1e-8) << k;
  }
}

TEST(NoisyTopk, StartsWithTheSameNoiseEverywhere) {
  const auto router = make_router("noisy_topk", kE);
  EXPECT_TRUE(router->named_parameters()["noise_weight"].eq(0).all().item<bool>());
  EXPECT_EQ(router->flops_per_token(), 2 * (2 * kE * testing::kRouterWidth));
  EXPECT_TRUE(router->wants_statistics());
  MoeConfig without = router_config("noisy_topk", kE);
  without.routers.noisy_topk.importance = without.routers.noisy_topk.load = 0;
  EXPECT_FALSE(make_router(without)->wants_statistics());
  RouteInput input = training_input(2);
  input.x = input.x.to(torch::kFloat32);
  EXPECT_TRUE(make_router(without)->route(input).terms.empty());
}

}  // namespace
}  // namespace smoe
