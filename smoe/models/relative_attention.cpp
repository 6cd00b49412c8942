#include "smoe/models/relative_attention.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "smoe/kernels/dropout.h"

namespace smoe {

at::Tensor relative_positions(int64_t length, int64_t width, const at::TensorOptions& options) {
  const at::TensorOptions fp64 = options.dtype(at::kDouble);
  const at::Tensor distance = at::arange(length - 1, -1, -1, fp64);
  const at::Tensor exponent = at::arange(0, width / 2, fp64) * (-2.0 / static_cast<double>(width));
  const at::Tensor angle = distance.unsqueeze(1) * (exponent * std::log(10000.0)).exp().unsqueeze(0);
  return at::cat({angle.sin(), angle.cos()}, 1).to(options);
}

at::Tensor hidden_keys(int64_t segment, int64_t memory, int64_t window, at::Device device) {
  const at::TensorOptions options = at::TensorOptions().dtype(at::kLong).device(device);
  const at::Tensor query = at::arange(memory, memory + segment, options).unsqueeze(1);
  const at::Tensor key = at::arange(memory + segment, options).unsqueeze(0);
  const at::Tensor later = key.gt(query);
  return window < 0 ? later : later.logical_or(key.lt(query - window));
}

at::Tensor relative_shift(const at::Tensor& x) {
  const int64_t groups = x.size(0), segment = x.size(1), length = x.size(2);
  // With a column of zeros in front, reading the same numbers in rows of S shifts row i by S − 1 − i.
  const at::Tensor padded = at::cat({at::zeros({groups, segment, 1}, x.options()), x}, 2);
  return padded.view({groups, length + 1, segment}).narrow(1, 1, length).reshape({groups, segment, length});
}

RelativeAttention::RelativeAttention(int64_t width, int64_t heads, int64_t head_width, double init_std,
                                     const RandomStream& random)
    : heads_(heads), head_width_(head_width) {
  const int64_t inner = heads * head_width;
  qkv_ = register_parameter("qkv", at::empty({3 * inner, width}));
  position_ = register_parameter("position", at::empty({inner, width}));
  output_ = register_parameter("output", at::empty({width, inner}));
  random.at("qkv").fill_normal(qkv_, 0, init_std);
  random.at("position").fill_normal(position_, 0, init_std);
  random.at("output").fill_normal(output_, 0, init_std);
}

at::Tensor RelativeAttention::forward(const at::Tensor& x, const AttentionInput& input) {
  const int64_t B = x.size(0), S = x.size(1), L = input.positions.size(0), N = heads_, P = head_width_;
  const int64_t inner = N * P;
  const at::Tensor context = input.memory.size(1) > 0 ? at::cat({input.memory, x}, 1) : x;  // [B, L, D]

  // Heads first, so that the position term is one product for the whole batch: [N, B, S, P].
  const at::Tensor query =
      linear(x, qkv_.narrow(0, 0, inner), {}, input.precision).view({B, S, N, P}).permute({2, 0, 1, 3});
  const at::Tensor key_value = linear(context, qkv_.narrow(0, inner, 2 * inner), {}, input.precision)
                                   .view({B, L, 2, N, P})
                                   .permute({2, 3, 0, 1, 4});
  const at::Tensor key = key_value[0].reshape({N * B, L, P}), value = key_value[1].reshape({N * B, L, P});
  const at::Tensor place =
      linear(input.positions, position_, {}, input.precision).view({L, N, P}).permute({1, 2, 0});  // [N, P, L]

  const at::Tensor u = input.content_bias.view({N, 1, 1, P}), v = input.position_bias.view({N, 1, 1, P});
  const at::Tensor content = matmul((query + u).reshape({N * B, S, P}), key.transpose(1, 2), input.precision);
  const at::Tensor relative = matmul((query + v).reshape({N, B * S, P}), place, input.precision).view({N * B, S, L});
  at::Tensor score = (content + relative_shift(relative)) * (1.0 / std::sqrt(static_cast<double>(P)));
  score = score.masked_fill(input.hidden_keys, -std::numeric_limits<double>::infinity());
  const at::Tensor probability = dropout(at::softmax(score, -1), input.dropout, input.dropout_key);
  const at::Tensor mixed = matmul(probability, value, input.precision);  // [N·B, S, P]
  return linear(mixed.view({N, B, S, P}).permute({1, 2, 0, 3}).reshape({B, S, inner}), output_, {}, input.precision);
}

}  // namespace smoe
