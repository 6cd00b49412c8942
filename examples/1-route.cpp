// Step 1: a router. It looks at a token and answers which experts the token goes to, and with what weight.
//
// The router of SMoE-Dropout is random and never trained. Its scores are computed for all experts, so how many of them
// a token takes, k, can be chosen at every call, and even for every token of one call.
#include <cstdint>
#include <cstdio>

#include "smoe/smoe.h"

namespace {

constexpr int64_t kTokens = 3, kWidth = 8, kExperts = 4;

/// A line for each token: its experts in the order of the router's slots, each with its weight.
void print(const smoe::Routing& routing) {
  for (int64_t token = 0; token < routing.expert.size(0); ++token) {
    std::printf("  token %lld:", static_cast<long long>(token));
    for (int64_t slot = 0; slot < routing.expert.size(1); ++slot) {
      const int expert = routing.expert[token][slot].item<int>();
      if (expert < 0) continue;  // an empty slot: this token takes fewer experts than the one with the most
      std::printf("  expert %d × %.3f", expert, routing.weight[token][slot].item<double>());
    }
    std::printf("\n");
  }
}

}  // namespace

int main() {
  // All randomness comes from streams with names, so the same seed makes the same router, wherever it is made.
  const smoe::RandomStream random(1);

  smoe::MoeConfig config;
  config.experts = kExperts;
  config.router = "random_frozen";
  config.router_init_std = 0.5;  // the published 0.02 gives weights that look all the same at this width
  const auto router = smoe::find_router_kind(config.router).make(config, kWidth, random.at("router"));

  // Tokens are vectors, x [T, D].
  smoe::RouteInput input;
  input.x = torch::empty({kTokens, kWidth});
  random.at("tokens").fill_normal(input.x, 0, 1);

  // One k for all tokens. The weights of a token's experts sum to 1 for every k; k = 4 is all of them.
  for (const int64_t k : {int64_t{1}, int64_t{2}, kExperts}) {
    input.k = k;
    std::printf("k = %lld\n", static_cast<long long>(k));
    print(router->route(input));
  }

  // A k of its own for each token.
  input.k = smoe::ActiveK(torch::tensor({1, 3, 2}, torch::kInt));
  std::printf("k = 1, 3, 2\n");
  const smoe::Routing routing = router->route(input);
  print(routing);

  // This is all that the rest of the library knows of a router: two tensors, [T, K].
  std::printf("expert [%lld, %lld], weight [%lld, %lld]; the weights sum to %.3f for %lld tokens\n",
              static_cast<long long>(routing.expert.size(0)), static_cast<long long>(routing.expert.size(1)),
              static_cast<long long>(routing.weight.size(0)), static_cast<long long>(routing.weight.size(1)),
              routing.weight.sum().item<double>(), static_cast<long long>(kTokens));
}
