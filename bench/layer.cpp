#include "bench/layer.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include <nlohmann/json.hpp>

#include "bench/device_time.h"
#include "bench/limits.h"
#include "bench/live_memory.h"
#include "bench/machine.h"
#include "bench/samples_json.h"
#include "smoe/base/error.h"
#include "smoe/kernels/block_gemm.h"

namespace smoe::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kTrainingProducts =
    3;  // of a training call, for each one of a forward pass: two are the backward pass's

/// The calls whose time is taken.
class Calls {
 public:
  explicit Calls(const LayerCase& layer) : inference_(layer), training_(layer) {
    inputs_ = {training_.x,          training_.weight,     training_.weights.w1,
               training_.weights.b1, training_.weights.w2, training_.weights.b2};
    for (at::Tensor& input : inputs_) input.requires_grad_();
    gradient_ = at::randn_like(training_.x, at::TensorOptions().requires_grad(false));
  }

  at::Tensor forward() const {
    const at::NoGradGuard no_grad;
    return inference_.forward();
  }
  at::Tensor training_forward() const { return training_.forward(); }
  std::vector<at::Tensor> backward(const at::Tensor& y) const {
    return torch::autograd::grad({y}, inputs_, {gradient_});
  }

  /// The seconds of a training call's forward pass, and of all of it, on weights that have changed.
  std::pair<double, double> training_seconds(at::Device device) {
    at::Tensor y;
    std::vector<at::Tensor> gradients;
    if (device.is_cpu()) {  // a call's halves, one after the other
      change_weights();
      const double forward = seconds_of([&] { y = training_forward(); });
      return {forward, forward + seconds_of([&] { gradients = backward(y); })};
    }
    const auto run_forward = [&] {
      change_weights();
      y = training_forward();
    };
    const double forward = seconds_of_call(device, run_forward);
    return {forward, seconds_of_call(device, [&] {
              run_forward();
              gradients = backward(y);
            })};
  }

 private:
  /// What an optimizer's step does to copies of the weights: they are out of date.
  void change_weights() {
    for (const at::Tensor* w : {&training_.weights.w1, &training_.weights.w2}) w->unsafeGetTensorImpl()->bump_version();
  }

  LayerCase inference_, training_;  // the same tensors
  std::vector<at::Tensor> inputs_;
  at::Tensor gradient_;
};

struct Times {
  Samples peak, forward, training_forward, backward, forward_backward;
  Samples forward_share, forward_backward_share;
};

/// The most that the device can do, as operations a second.
struct Peak {
  std::function<double()> sample;
  std::string what;  ///< which product
};

/// Of a CPU the microkernel's; of a GPU that of LibTorch's product of two large matrices.
std::optional<Peak> peak_of(at::ScalarType type, at::Device device) {
  if (device.is_cpu()) {
    if (!has_block_gemm(type)) return std::nullopt;
    const auto block = std::make_shared<BlockPeak>(best_block(type));
    return Peak{[block] { return block->sample(); }, block->shape().text()};
  }
  constexpr int64_t kSize = 8192;
  const at::TensorOptions where = at::TensorOptions(device).dtype(type);
  const at::Tensor a = at::randn({kSize, kSize}, where), b = at::randn({kSize, kSize}, where), c = at::empty_like(a);
  const auto sample = [=] {
    at::Tensor out = c;
    const double flops = 2.0 * kSize * kSize * kSize;
    return flops / seconds_of_call(device, [&] { at::mm_out(out, a, b); });
  };
  return Peak{sample, concat(kSize, 'x', kSize, 'x', kSize)};
}

/// The calls in turns with the peak, on either side of each. Its share of the peak is taken here and now: a processor that
/// is shared changes its speed from one moment to the next.
void one_round(Calls& calls, at::Device device, double flops, const std::optional<Peak>& peak, Times& times) {
  double before = 0, after = 0;
  const auto next_peak = [&] {
    before = after;
    if (!peak) return;
    after = peak->sample();
    times.peak.add(after);
  };
  const auto add_share = [&](Samples& share, double speed) {
    if (peak) share.add(speed / ((before + after) / 2));
  };
  calls.forward();  // packs what the last round has changed
  next_peak();
  const double inference = seconds_of_call(device, [&] { calls.forward(); });
  next_peak();
  times.forward.add(inference);
  add_share(times.forward_share, flops / inference);
  const auto [forward, both] = calls.training_seconds(device);
  times.training_forward.add(forward);
  times.backward.add(both - forward);
  times.forward_backward.add(both);
  next_peak();
  add_share(times.forward_backward_share, kTrainingProducts * flops / both);
}

/// Bytes that the forward pass leaves behind for the backward pass, beside x, the routing and y.
int64_t activation_bytes(const Calls& calls, at::Device device) {
  const LiveMemory memory(device);
  const at::Tensor y = calls.training_forward();
  return memory.now() - static_cast<int64_t>(y.nbytes());
}

int64_t peak_bytes(const Calls& calls, at::Device device) {
  const LiveMemory memory(device);
  calls.backward(calls.training_forward());
  return memory.peak();
}

/// Operations a second, and their share of the peak.
void add_speed(Json& json, const std::string& name, double flops, const Samples& time, const Samples& share) {
  json[name + "_flops"] = static_cast<int64_t>(flops);
  json[name + "_gflops"] = flops / time.median() / 1e9;
  add_spread(json, name + "_share", share, 1);
}

Json describe(const LayerCase& layer, const LayerOptions& options) {
  const LayerShape& shape = layer.shape;
  return {{"shape", shape.text()},
          {"E", shape.E},
          {"D", shape.D},
          {"H", shape.H},
          {"T", shape.T},
          {"K", shape.K},
          {"dtype", options.type == at::kBFloat16 ? "bf16" : "fp32"},
          {"device", layer.x.is_cpu() ? "cpu" : "cuda"},
          {"threads", at::get_num_threads()},
          {"kernel", layer.kernel()},
          {"activation", activation_names()[static_cast<size_t>(options.activation)]},
          {"routing", spread_names()[static_cast<size_t>(options.spread)]},
          {"repeat", options.repeat}};
}

}  // namespace

Json measure_layer(const LayerShape& shape, const LayerOptions& options) {
  const LayerCase layer = LayerCase::make(shape, options.type, options.activation, options.spread, options.device);
  Calls calls(layer);
  const at::Device device = layer.x.device();
  const std::optional<Peak> peak = peak_of(options.type, device);
  Times warm_up, times;
  const double flops = layer.forward_flops();
  one_round(calls, device, flops, peak, warm_up);
  const int64_t kept = activation_bytes(calls, device), most = peak_bytes(calls, device);
  for (int64_t i = 0; i < options.repeat; ++i) one_round(calls, device, flops, peak, times);

  Json json = describe(layer, options);
  add_spread(json, "forward_ms", times.forward, 1e-3);
  add_spread(json, "training_forward_ms", times.training_forward, 1e-3);
  add_spread(json, "backward_ms", times.backward, 1e-3);
  add_spread(json, "forward_backward_ms", times.forward_backward, 1e-3);
  add_speed(json, "forward", flops, times.forward, times.forward_share);
  add_speed(json, "forward_backward", kTrainingProducts * flops, times.forward_backward, times.forward_backward_share);
  add_spread(json, "peak_gflops", times.peak, 1e9);
  json["peak_block"] = peak ? Json(peak->what) : Json(nullptr);
  json["activation_bytes"] = kept;
  json["input_bytes"] = layer.x.nbytes();
  json["routing_bytes"] = layer.expert.nbytes() + layer.weight.nbytes();
  json["forward_backward_peak_bytes"] = most;
  json["machine"] = machine();
  return json;
}

}  // namespace smoe::bench
