// Step 2: a layer. A MoeLayer is a router and its experts; it stands where a transformer has its feed-forward block.
//
// New here: forward and backward, what the layer reports about its routing, and what turning k costs.
#include <cstdint>
#include <cstdio>

#include "smoe/smoe.h"

namespace {

constexpr int64_t kTokens = 64, kWidth = 16, kExperts = 8;

}  // namespace

int main() {
  const smoe::RandomStream random(1);

  smoe::MoeConfig config;
  config.experts = kExperts;
  config.expert_width = 32;  // each expert is a small network: 16 → 32 → 16
  smoe::MoeLayer layer(config, kWidth, /*init_std=*/0.02, random.at("layer"));

  smoe::RouteInput input;
  input.x = torch::empty({kTokens, kWidth});
  random.at("tokens").fill_normal(input.x, 0, 1);
  input.x.requires_grad_();
  input.k = 2;

  // Forward: y [T, D], and the layer's statistics in a book. A model has one book for all of its layers.
  smoe::StatsBook book;
  const smoe::MixOptions options;  // fp32, no dropout
  const smoe::MoeLayer::Result result = layer.forward(input, options, &book, /*layer=*/0);
  std::printf("x [%lld, %lld] → y [%lld, %lld]\n", static_cast<long long>(input.x.size(0)),
              static_cast<long long>(input.x.size(1)), static_cast<long long>(result.y.size(0)),
              static_cast<long long>(result.y.size(1)));

  const smoe::LayerStats stats = book.layers()[0];
  const torch::Tensor load = stats.load();
  std::printf("%.1f experts a token; share of the work of each expert:", stats.mean_active_experts());
  for (int64_t expert = 0; expert < kExperts; ++expert) std::printf(" %.2f", load[expert].item<double>());
  std::printf("\n");

  // Backward: ordinary autograd. The experts learn; the router is frozen, but a gradient flows through it to x.
  result.y.square().sum().backward();
  for (const auto& parameter : layer.named_parameters()) {
    const torch::Tensor& gradient = parameter.value().grad();
    if (gradient.defined()) {
      std::printf("%-28s gradient norm %.4f\n", parameter.key().c_str(), gradient.norm().item<double>());
    } else {
      std::printf("%-28s frozen\n", parameter.key().c_str());
    }
  }
  std::printf("%-28s gradient norm %.4f\n", "x", input.x.grad().norm().item<double>());

  // The dial: another k is an argument of the next call. No weight is touched.
  const torch::NoGradGuard no_grad;
  input.k = kExperts;
  const torch::Tensor full = layer.forward(input, options, nullptr, 0).y;
  for (int64_t k = 1; k <= kExperts; k *= 2) {
    input.k = k;
    const torch::Tensor y = layer.forward(input, options, nullptr, 0).y;
    std::printf("k = %lld: %6.0f FLOPs and %5.0f parameters a token, distance to k = %lld: %.4f\n",
                static_cast<long long>(k), layer.flops_per_token(static_cast<double>(k)),
                layer.active_parameters(static_cast<double>(k)), static_cast<long long>(kExperts),
                (y - full).norm().item<double>());
  }
}
