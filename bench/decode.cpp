#include "bench/decode.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include <nlohmann/json.hpp>

#include "bench/limits.h"
#include "bench/machine.h"
#include "bench/read_sum.h"
#include "bench/samples.h"

namespace smoe::bench {
namespace {

constexpr size_t kRoutings = 64;        // drawn before the clock runs
constexpr int64_t kCallsPerRound = 32;  // of a kind, before the other has its turn
constexpr int64_t kToSettle = 4;        // first calls of a round, which find the other's bytes in the cache

/// A routing and the experts that it names, each once.
struct Draw {
  at::Tensor expert;
  std::vector<int32_t> used;
};

std::vector<Draw> draw_routings(const LayerShape& shape) {
  std::vector<Draw> draws(kRoutings);
  for (size_t i = 0; i < kRoutings; ++i) {
    draws[i].expert = make_routing(shape, Spread::kUniform, i + 1);
    const int32_t* id = draws[i].expert.const_data_ptr<int32_t>();
    draws[i].used.assign(id, id + draws[i].expert.numel());
    std::sort(draws[i].used.begin(), draws[i].used.end());
    draws[i].used.erase(std::unique(draws[i].used.begin(), draws[i].used.end()), draws[i].used.end());
  }
  return draws;
}

/// Reads the parts of the buffer that stand for some experts, all threads sharing each.
void read_experts(const at::Tensor& buffer, int64_t each, const std::vector<int32_t>& used) {
  on_all_threads([&](int64_t thread, int64_t threads) {
    const int64_t part = each / threads / kReadStep * kReadStep;
    for (const int32_t e : used) read_and_keep(buffer.const_data_ptr<uint8_t>() + e * each + thread * part, part);
  });
}

}  // namespace

nlohmann::ordered_json measure_decode(const LayerShape& shape, const LayerOptions& options) {
  const at::NoGradGuard no_grad;
  LayerCase layer = LayerCase::make(shape, options.type, options.activation, Spread::kUniform);
  const std::vector<Draw> draws = draw_routings(shape);
  const int64_t step = kReadStep * at::get_num_threads();
  const int64_t each = std::max<int64_t>(1, layer.expert_bytes() / step) * step;
  const at::Tensor buffer = at::zeros({shape.E * each}, at::kByte);

  Samples call, read, experts;
  int64_t next = 0;
  const auto several = [&](Samples& times, const auto& work) {
    for (int64_t i = 0; i < kToSettle + kCallsPerRound; ++i) {
      const Draw& draw = draws[static_cast<size_t>(next++) % kRoutings];
      const double seconds = seconds_of([&] { work(draw); });
      if (i >= kToSettle) times.add(seconds);
    }
  };
  layer.forward();  // packs the weights
  for (int64_t round = 0; round < options.repeat; ++round) {
    read_on_all_threads(buffer.const_data_ptr(), buffer.numel());
    several(read, [&](const Draw& draw) { read_experts(buffer, each, draw.used); });
    several(call, [&](const Draw& draw) {
      layer.expert = draw.expert;
      layer.forward();
    });
  }
  for (const Draw& draw : draws) experts.add(static_cast<double>(draw.used.size()));
  double mean_experts = 0;
  for (const double count : experts.values()) mean_experts += count / static_cast<double>(experts.size());

  const double bytes = mean_experts * static_cast<double>(layer.expert_bytes());
  const double read_bytes = mean_experts * static_cast<double>(each);
  const auto quartiles = [](const Samples& s) {
    return nlohmann::ordered_json{s.quantile(0.25) * 1e3, s.quantile(0.75) * 1e3};
  };
  nlohmann::ordered_json json{{"shape", shape.text()},
                              {"E", shape.E},
                              {"D", shape.D},
                              {"H", shape.H},
                              {"tokens", shape.T},
                              {"K", shape.K},
                              {"dtype", options.type == at::kBFloat16 ? "bf16" : "fp32"},
                              {"threads", at::get_num_threads()},
                              {"kernel", layer.kernel()},
                              {"activation", activation_names()[static_cast<size_t>(options.activation)]},
                              {"repeat", options.repeat},
                              {"calls", call.size()}};
  json["experts_read"] = mean_experts;
  json["weight_bytes"] = bytes;
  json["all_weight_bytes"] = shape.E * layer.expert_bytes();
  json["call_ms"] = call.median() * 1e3;
  json["call_ms_quartiles"] = quartiles(call);
  json["gb_per_second"] = bytes / call.median() / 1e9;
  json["read_ms"] = read.median() * 1e3;
  json["read_ms_quartiles"] = quartiles(read);
  json["read_gb_per_second"] = read_bytes / read.median() / 1e9;
  json["share"] = (bytes / call.median()) / (read_bytes / read.median());
  json["machine"] = machine();
  return json;
}

}  // namespace smoe::bench
