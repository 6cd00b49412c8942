#include "smoe/models/relative_attention.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>

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

at::Tensor RelativeAttention::forward(const at::Tensor& x, const AttentionInput& input) {
  const ProfiledPart part("smoe.attention");
  const int64_t B = x.size(0), S = x.size(1), L = input.positions.size(0), N = heads_, P = head_width_;
  const int64_t inner = N * P;
  // In bf16 what comes out stays bf16, for attention takes it so.
  const at::Tensor fresh = to_compute(x, input.precision), memory = to_compute(input.memory, input.precision);
  const auto project = [&](const at::Tensor& from, const at::Tensor& weight) {
    return linear(to_compute(from, input.precision), weight, {}, input.precision);
  };
  RelativeAttentionInput heads;
  if (mixture_ != nullptr) {
    // Past tokens are routed like those of the segment, each by its own vector.
    const at::Tensor context = input.memory.size(1) > 0 ? at::cat({input.memory, x}, 1) : x;  // [B, L, D]
    const at::Tensor rows = context.reshape({B * L, context.size(-1)});
    const at::Tensor all = mixture_->forward(rows, input.route, input.precision).view({B, L, 3, N, P});
    heads.query = all.narrow(1, L - S, S).select(2, 0);
    heads.key_value = all.narrow(2, 1, 2);
  } else {
    heads.query = project(fresh, qkv_.narrow(0, 0, inner)).view({B, S, N, P});
    heads.key_value =
        linear_after(memory, fresh, qkv_.narrow(0, inner, 2 * inner), input.precision).view({B, L, 2, N, P});
  }
  heads.position = project(input.positions, position_).view({L, N, P});
  heads.content_bias = input.content_bias;
  heads.position_bias = input.position_bias;
  heads.window = input.window;
  heads.dropout = input.dropout;
  heads.dropout_key = input.dropout_key;
  return project(relative_attention(heads), output_).to(x.scalar_type());
}

}  // namespace smoe
