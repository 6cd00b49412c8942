#include "bench/layer.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <optional>

#include <nlohmann/json.hpp>

#include "bench/limits.h"
#include "bench/live_memory.h"
#include "bench/machine.h"
#include "bench/samples.h"
#include "smoe/kernels/block_gemm.h"

namespace smoe::bench {
namespace {

using Json = nlohmann::ordered_json;

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

  /// What an optimizer's step does to copies of the weights: they are out of date.
  void change_weights() {
    for (const at::Tensor* w : {&training_.weights.w1, &training_.weights.w2}) w->unsafeGetTensorImpl()->bump_version();
  }

 private:
  LayerCase inference_, training_;  // the same tensors
  std::vector<at::Tensor> inputs_;
  at::Tensor gradient_;
};

struct Times {
  Samples peak, forward, training_forward, backward, forward_backward;
};

void one_round(Calls& calls, const std::optional<BlockPeak>& peak, Times& times) {
  if (peak) times.peak.add(peak->sample());
  calls.forward();  // packs what the last round has changed
  times.forward.add(seconds_of([&] { calls.forward(); }));
  calls.change_weights();
  at::Tensor y;
  std::vector<at::Tensor> gradients;
  const double forward = seconds_of([&] { y = calls.training_forward(); });
  const double backward = seconds_of([&] { gradients = calls.backward(y); });
  times.training_forward.add(forward);
  times.backward.add(backward);
  times.forward_backward.add(forward + backward);
}

/// Bytes that the forward pass leaves behind for the backward pass, beside x, the routing and y.
int64_t activation_bytes(const Calls& calls) {
  const LiveMemory memory;
  const at::Tensor y = calls.training_forward();
  return memory.now() - static_cast<int64_t>(y.nbytes());
}

int64_t peak_bytes(const Calls& calls) {
  const LiveMemory memory;
  calls.backward(calls.training_forward());
  return memory.peak();
}

void add_time(Json& json, const std::string& name, const Samples& samples) {
  json[name + "_ms"] = samples.median() * 1e3;
  json[name + "_ms_quartiles"] = {samples.quantile(0.25) * 1e3, samples.quantile(0.75) * 1e3};
}

/// Operations a second, beside the peak's where there is one.
void add_speed(Json& json, const std::string& name, double flops, const Samples& time, const Samples& peak) {
  const double speed = flops / time.median();
  json[name + "_flops"] = static_cast<int64_t>(flops);
  json[name + "_gflops"] = speed / 1e9;
  json[name + "_share"] = peak.size() > 0 ? Json(speed / peak.median()) : Json(nullptr);
}

void add_peak(Json& json, const std::optional<BlockPeak>& block, const Samples& peak) {
  json["peak_gflops"] = block ? Json(peak.median() / 1e9) : Json(nullptr);
  json["peak_gflops_quartiles"] = block ? Json{peak.quantile(0.25) / 1e9, peak.quantile(0.75) / 1e9} : Json(nullptr);
  json["peak_block"] = block ? Json(block->shape().text()) : Json(nullptr);
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
          {"threads", at::get_num_threads()},
          {"kernel", layer.kernel()},
          {"activation", activation_names()[static_cast<size_t>(options.activation)]},
          {"routing", spread_names()[static_cast<size_t>(options.spread)]},
          {"repeat", options.repeat}};
}

}  // namespace

Json measure_layer(const LayerShape& shape, const LayerOptions& options) {
  const LayerCase layer = LayerCase::make(shape, options.type, options.activation, options.spread);
  Calls calls(layer);
  std::optional<BlockPeak> peak;
  if (has_block_gemm(options.type)) peak = best_block(options.type);
  Times warm_up, times;
  one_round(calls, peak, warm_up);
  const int64_t kept = activation_bytes(calls), most = peak_bytes(calls);
  for (int64_t i = 0; i < options.repeat; ++i) one_round(calls, peak, times);

  Json json = describe(layer, options);
  add_time(json, "forward", times.forward);
  add_time(json, "training_forward", times.training_forward);
  add_time(json, "backward", times.backward);
  add_time(json, "forward_backward", times.forward_backward);
  const double flops = layer.forward_flops();
  add_speed(json, "forward", flops, times.forward, times.peak);
  // Two products in the backward pass for each one in the forward pass.
  add_speed(json, "forward_backward", 3 * flops, times.forward_backward, times.peak);
  add_peak(json, peak, times.peak);
  json["activation_bytes"] = kept;
  json["input_bytes"] = layer.x.nbytes();
  json["routing_bytes"] = layer.expert.nbytes() + layer.weight.nbytes();
  json["forward_backward_peak_bytes"] = most;
  json["machine"] = machine();
  return json;
}

}  // namespace smoe::bench
