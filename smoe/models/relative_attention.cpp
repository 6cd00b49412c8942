#include "smoe/models/relative_attention.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <cmath>

#include "smoe/kernels/attention.h"
#include "smoe/kernels/linear.h"
#include "smoe/tensor/profiled_part.h"

namespace smoe {

at::Tensor relative_positions(int64_t length, int64_t width, const at::TensorOptions& options) {
  const at::TensorOptions fp64 = options.dtype(at::kDouble);
  const at::Tensor distance = at::arange(length - 1, -1, -1, fp64);
  const at::Tensor exponent = at::arange(0, width / 2, fp64) * (-2.0 / static_cast<double>(width));
  const at::Tensor angle = distance.unsqueeze(1) * (exponent * std::log(10000.0)).exp().unsqueeze(0);
  return at::cat({angle.sin(), angle.cos()}, 1).to(options);
}

RelativeAttention::RelativeAttention(int64_t width, int64_t heads, int64_t head_width, double init_std,
                                     const RandomStream& random, const AttentionMixture& mixture)
    : heads_(heads), head_width_(head_width) {
  const int64_t inner = heads * head_width;
  if (mixture.experts > 0) {
    mixture_ = register_module(
        "projection", std::make_shared<MixtureProjection>(mixture.moe, mixture.experts, mixture.k, width, 3 * inner,
                                                          init_std, random.at("projection")));
  } else {
    qkv_ = register_parameter("qkv", random.at("qkv").normal({3 * inner, width}, 0, init_std));
  }
  position_ = register_parameter("position", random.at("position").normal({inner, width}, 0, init_std));
  output_ = register_parameter("output", random.at("output").normal({width, inner}, 0, init_std));
}

LayerMemory RelativeAttention::empty_memory(int64_t batch, MemoryOf of) const {
  LayerMemory memory{.of = of, .inputs = {}, .key_value = {}, .positions = {}};
  if (of == MemoryOf::kInputs || mixture_ != nullptr) {
    memory.inputs = at::empty({batch, 0, position_.size(1)}, position_.options().requires_grad(false));
  }
  return memory;
}

at::Tensor RelativeAttention::forward(const at::Tensor& x, const AttentionInput& input) {
  const ProfiledPart part("smoe.attention");
  LayerMemory& memory = *input.memory;
  const int64_t B = x.size(0), S = x.size(1), L = memory.length() + S, N = heads_, P = head_width_;
  const int64_t inner = N * P;
  // In bf16 what comes out stays bf16, for attention takes it so.
  const auto project = [&](const at::Tensor& from, const at::Tensor& weight) {
    return linear(to_compute(from, input.precision), weight, {}, input.precision);
  };
  RelativeAttentionInput heads;
  if (mixture_ != nullptr) {
    // Past tokens are routed like those of the segment, each by its own vector.
    const at::Tensor context = memory.length() > 0 ? at::cat({memory.inputs, x}, 1) : x;  // [B, L, D]
    const at::Tensor rows = context.reshape({B * L, context.size(-1)});
    const at::Tensor all = mixture_->forward(rows, input.route, input.precision).view({B, L, 3, N, P});
    heads.query = all.narrow(1, L - S, S).select(2, 0);
    heads.key_value = all.narrow(2, 1, 2);
  } else if (memory.inputs.defined()) {
    const at::Tensor past = to_compute(memory.inputs, input.precision), fresh = to_compute(x, input.precision);
    heads.query = project(fresh, qkv_.narrow(0, 0, inner)).view({B, S, N, P});
    const at::Tensor key_value = linear_after(past, fresh, qkv_.narrow(0, inner, 2 * inner), input.precision);
    heads.key_value = key_value.view({B, L, 2, N, P});
  } else {
    const at::Tensor all = project(x, qkv_).view({B, S, 3, N, P});
    heads.query = all.select(2, 0);
    memory.key_value.append(all.narrow(2, 1, 2));
    heads.key_value = memory.key_value.rows();
  }
  at::Tensor positions = memory.positions;
  if (input.positions.defined()) positions = project(input.positions, position_).view({-1, N, P});
  if (memory.of == MemoryOf::kKeysAndValues) memory.positions = positions;
  heads.position = positions.narrow(0, positions.size(0) - L, L);
  heads.content_bias = input.content_bias;
  heads.position_bias = input.position_bias;
  heads.window = input.window;
  heads.dropout = input.dropout;
  heads.dropout_key = input.dropout_key;
  return project(relative_attention(heads), output_).to(x.scalar_type());
}

}  // namespace smoe
