// The tokens and weights that tests/golden/routers.py worked its numbers out for.
#pragma once

#include <gtest/gtest.h>

#include "tests/golden/router_numbers.h"
#include "tests/moe/router_case.h"

namespace smoe::testing {

/// scale · sin(step · n + start), n = 0 … count − 1, fp64.
inline at::Tensor wave(int64_t count, double step, double start, double scale) {
  return torch::sin(torch::arange(count, torch::kFloat64) * step + start) * scale;
}

inline at::Tensor golden_tokens() {
  return wave(golden::kTokens * golden::kWidth, 0.7, 0.5, 1).view({golden::kTokens, golden::kWidth});
}

/// A router of that configuration in fp64 whose `weight` is the script's, with `below` mixtures below it.
inline std::shared_ptr<Router> golden_router(MoeConfig config, int64_t below = 0) {
  config.experts = golden::kExperts;
  const auto router = make_router(config, /*seed=*/1, RouterPlace(golden::kWidth, below));
  router->to(torch::kFloat64);
  auto parameters = router->named_parameters();
  if (at::Tensor* weight = parameters.find("weight")) {
    weight->set_data(wave(golden::kExperts * golden::kWidth, 1.3, 0.2, 1.5).view({golden::kExperts, golden::kWidth}));
  }
  return router;
}

/// Compares the dense weights of a routing with numbers of the script.
template <size_t N>
void expect_golden(const Routing& routing, const double (&want)[N]) {
  const at::Tensor numbers =
      torch::tensor(std::vector<double>(want, want + N), torch::kFloat64).view({golden::kTokens, golden::kExperts});
  const at::Tensor got = dense_weights(routing, golden::kExperts);
  EXPECT_TRUE(torch::allclose(got.to(torch::kFloat64), numbers, 1e-9, 1e-12)) << got << numbers;
}

}  // namespace smoe::testing
