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
#include "bench/samples_json.h"

namespace smoe::bench {
namespace {

using Json = nlohmann::ordered_json;

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

/// Reads the parts of the buffer that stand for some experts: alone, or all threads sharing each.
void read_experts(const at::Tensor& buffer, int64_t each, const std::vector<int32_t>& used, bool alone) {
  const auto read = [&](int64_t thread, int64_t threads) {
    const int64_t part = each / threads / kReadStep * kReadStep;
    for (const int32_t e : used) read_and_keep(buffer.const_data_ptr<uint8_t>() + e * each + thread * part, part);
  };
  if (alone) {
    read(0, 1);
  } else {
    on_all_threads(read);
  }
}

struct Times {
  Samples call, read;
  Samples ratio;  ///< of the time of a read to that of a call, round by round
};

/// Rounds of some reads and some calls each. An expert has `each` bytes in the buffer.
Times measure(LayerCase layer, const std::vector<Draw>& draws, const at::Tensor& buffer, int64_t each, int64_t repeat) {
  Times times;
  size_t next = 0;
  const auto several = [&](Samples& all, const auto& work) {
    Samples now;
    for (int64_t i = 0; i < kToSettle + kCallsPerRound; ++i) {
      const Draw& draw = draws[next++ % draws.size()];
      const double seconds = seconds_of([&] { work(draw); });
      if (i >= kToSettle) now.add(seconds);
    }
    for (const double seconds : now.values()) all.add(seconds);
    return now.median();
  };
  layer.forward();  // packs the weights
  const auto read_by = [&](bool alone) {
    return [&, alone](const Draw& draw) { read_experts(buffer, each, draw.used, alone); };
  };
  Samples by_all, by_one;
  for (int64_t round = 0; round < repeat; ++round) {
    read_on_all_threads(buffer.const_data_ptr(), buffer.numel());
    double read = several(by_all, read_by(false));
    // One thread reads few bytes before the others are awake.
    if (at::get_num_threads() > 1) read = std::min(read, several(by_one, read_by(true)));
    const double call = several(times.call, [&](const Draw& draw) {
      layer.expert = draw.expert;
      layer.forward();
    });
    times.ratio.add(read / call);
  }
  times.read = by_one.size() > 0 && by_one.median() < by_all.median() ? by_one : by_all;
  return times;
}

Json describe(const LayerCase& layer, const LayerOptions& options) {
  const LayerShape& shape = layer.shape;
  return {{"shape", shape.text()},
          {"E", shape.E},
          {"D", shape.D},
          {"H", shape.H},
          {"tokens", shape.T},
          {"K", shape.K},
          {"dtype", options.type == at::kBFloat16 ? "bf16" : "fp32"},
          {"threads", at::get_num_threads()},
          {"kernel", layer.kernel()},
          {"activation", activation_names()[static_cast<size_t>(options.activation)]},
          {"repeat", options.repeat}};
}

}  // namespace

Json measure_decode(const LayerShape& shape, const LayerOptions& options) {
  const at::NoGradGuard no_grad;
  const LayerCase layer = LayerCase::make(shape, options.type, options.activation, Spread::kUniform);
  const std::vector<Draw> draws = draw_routings(shape);
  // Every thread reads whole steps of an expert, which may be a little less than all of it.
  const int64_t step = kReadStep * at::get_num_threads();
  const int64_t each = std::max<int64_t>(1, layer.expert_bytes() / step) * step;
  const at::Tensor buffer = at::zeros({shape.E * each}, at::kByte);
  const Times times = measure(layer, draws, buffer, each, options.repeat);

  double experts = 0;
  for (const Draw& draw : draws) experts += static_cast<double>(draw.used.size()) / static_cast<double>(draws.size());
  const double bytes = experts * static_cast<double>(layer.expert_bytes());
  const double read_bytes = experts * static_cast<double>(each);
  Json json = describe(layer, options);
  json["calls"] = times.call.size();
  json["experts_read"] = experts;
  json["weight_bytes"] = bytes;
  json["all_weight_bytes"] = shape.E * layer.expert_bytes();
  add_spread(json, "call_ms", times.call, 1e-3);
  json["gb_per_second"] = bytes / times.call.median() / 1e9;
  add_spread(json, "read_ms", times.read, 1e-3);
  json["read_gb_per_second"] = read_bytes / times.read.median() / 1e9;
  add_spread(json, "share", times.ratio, read_bytes / bytes);
  json["machine"] = machine();
  return json;
}

}  // namespace smoe::bench
