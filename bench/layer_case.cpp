#include "bench/layer_case.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "bench/machine.h"
#include "smoe/base/error.h"
#include "smoe/base/suggest.h"
#include "smoe/kernels/kernel_choice.h"
#include "smoe/kernels/moe_mlp_bodies.h"
#include "smoe/tensor/random_stream.h"

namespace smoe::bench {
namespace {

constexpr uint64_t kSeed = 1;

/// Whether weights, their packed copies for both directions and their gradients fit, and the rows.
void check_memory(const LayerShape& s, int64_t halves) {
  const double weights = static_cast<double>(s.E) * static_cast<double>(s.D) * static_cast<double>((halves + 1) * s.H);
  const double rows = static_cast<double>(s.T) * static_cast<double>(s.K) * static_cast<double>(halves * s.H + s.D);
  const double gib = 4 * (4 * weights + 3 * rows) / (1 << 30), has = static_cast<double>(physical_memory()) / (1 << 30);
  require(gib < has, "--shape: ", s.text(), " takes about ", std::llround(gib), " GiB, this machine has ",
          std::llround(has));
}

at::Tensor normal(at::IntArrayRef sizes, double deviation, const char* name) {
  at::Tensor out = at::empty(sizes);
  RandomStream(kSeed).at(name).fill_normal(out, 0, deviation);
  return out;
}

}  // namespace

const std::vector<std::string>& spread_names() {
  static const std::vector<std::string> kNames = {"balanced", "uniform", "skewed"};
  return kNames;
}

Spread parse_spread(const std::string& name) {
  const std::vector<std::string>& names = spread_names();
  const auto found = std::find(names.begin(), names.end(), name);
  require(found != names.end(), "--routing: '", name, "' is not known", suggest(name, names));
  return static_cast<Spread>(found - names.begin());
}

at::ScalarType parse_dtype(const std::string& name) {
  require(name == "fp32" || name == "bf16", "--dtype: '", name, "' is not known", suggest(name, {"fp32", "bf16"}));
  return name == "bf16" ? at::kBFloat16 : at::kFloat;
}

at::Tensor make_routing(const LayerShape& shape, Spread spread, uint64_t seed) {
  at::Tensor expert = at::empty({shape.T, shape.K}, at::kInt);
  int32_t* out = expert.mutable_data_ptr<int32_t>();
  std::mt19937_64 draw(seed);
  // The token that stands at place i takes the next K experts of a round: with the places shuffled, each expert's tokens
  // are a random set, and no expert gets two rows more than another.
  std::vector<int64_t> place(static_cast<size_t>(shape.T)), id(static_cast<size_t>(shape.E));
  std::iota(place.begin(), place.end(), int64_t{0});
  std::iota(id.begin(), id.end(), int64_t{0});
  std::shuffle(place.begin(), place.end(), draw);
  const int64_t few = std::min(shape.E, std::max<int64_t>(shape.K, 2));
  const int64_t round = spread == Spread::kSkewed ? few : shape.E;
  for (int64_t t = 0; t < shape.T; ++t) {
    if (spread == Spread::kUniform) std::shuffle(id.begin(), id.end(), draw);
    for (int64_t s = 0; s < shape.K; ++s) {
      const int64_t next = (place[static_cast<size_t>(t)] * shape.K + s) % round;
      *out++ = static_cast<int32_t>(spread == Spread::kUniform ? id[static_cast<size_t>(s)] : next);
    }
  }
  return expert;
}

LayerCase LayerCase::make(const LayerShape& shape, at::ScalarType type, Activation activation, Spread spread,
                          at::Device device) {
  shape.check();
  const int64_t halves = is_gated(activation) ? 2 : 1;
  check_memory(shape, halves);
  const auto [E, D, H, T, K] = shape;
  LayerCase out{.shape = shape,
                .activation = activation,
                .x = normal({T, D}, 1, "x").to(type),
                .expert = make_routing(shape, spread, kSeed),
                .weight = normal({T, K}, 1, "weight").abs(),
                .weights = {.w1 = normal({E, halves * H, D}, 1 / std::sqrt(static_cast<double>(D)), "w1"),
                            .b1 = normal({E, halves * H}, 0.1, "b1"),
                            .w2 = normal({E, D, H}, 1 / std::sqrt(static_cast<double>(H)), "w2"),
                            .b2 = normal({E, D}, 0.1, "b2")}};
  for (at::Tensor* t :
       {&out.x, &out.expert, &out.weight, &out.weights.w1, &out.weights.b1, &out.weights.w2, &out.weights.b2}) {
    *t = t->to(device);
  }
  return out;
}

double LayerCase::forward_flops() const {
  const double rows = static_cast<double>(shape.T) * static_cast<double>(shape.K);
  return 2 * rows * static_cast<double>(weights.w1.numel() + weights.w2.numel()) / static_cast<double>(shape.E);
}

int64_t LayerCase::expert_bytes() const {
  return (weights.w1.numel() + weights.w2.numel()) / shape.E * x.element_size();
}

std::string LayerCase::kernel() const {
  if (forced_kernels() != KernelChoice::kAny) return name_of(forced_kernels());
  if (moe_mlp_cpu_takes(x, weights, activation)) return "cpu";
  return moe_mlp_grouped_is_for(x) ? "grouped" : "reference";
}

at::Tensor LayerCase::forward() const { return moe_mlp(x, expert, weight, weights, activation, 0, 0); }

}  // namespace smoe::bench
