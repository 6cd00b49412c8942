// What a balance loss alone makes of the load of networks, for routers that have other experts beside them.
#pragma once

#include <ATen/core/Tensor.h>

#include "tests/moe/routers/golden_case.h"

namespace smoe::testing {

/// Mean networks a token at `k` after some steps of descent on the term `name` alone; every token has a 1 in front, whose
/// weights are a bias, the only thing that moves, and noise behind it.
inline double networks_at_balance(const MoeConfig& config, const std::string& term, int64_t k) {
  const auto router = make_router(config);
  const at::Tensor weight = router->named_parameters()["weight"];
  at::Tensor taken;
  constexpr int kSteps = 400, kLast = 100;
  double networks = 0;
  for (int step = 0; step < kSteps; ++step) {
    const at::Tensor x = router_tokens(1000, static_cast<uint64_t>(step)) * 0.3;
    RouteInput input =
        router_input(torch::cat({torch::ones({1000, 1}), x.narrow(1, 1, kRouterWidth - 1)}, 1), {.k = k});
    input.training = true;
    const Routing routing = router->route(input);
    weight.mutable_grad() = at::Tensor();
    routing.terms.at(term).value.backward();
    const torch::NoGradGuard no_grad;
    weight.select(1, 0).sub_(weight.grad().select(1, 0) * 0.1 * static_cast<double>(config.experts));
    const at::Tensor is_network = routing.expert.ge(0).logical_and(routing.expert.lt(config.networks()));
    if (step >= kSteps - kLast) networks += is_network.sum().item<double>() / 1000 / kLast;
  }
  return networks;
}

}  // namespace smoe::testing
