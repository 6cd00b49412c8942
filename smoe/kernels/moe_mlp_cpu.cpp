#include "smoe/kernels/moe_mlp_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/threshold_backward.h>

#include "smoe/base/error.h"

namespace smoe {
namespace {

/// Memory as a tensor, which LibTorch's functions want.
at::Tensor as_tensor(float* data, int64_t count) { return at::from_blob(data, {tile_room(count)}, at::kFloat); }

/// What lies past the tile's elements is computed too, and must be numbers.
void fill_up(float* data, int64_t count) { std::fill(data + count, data + tile_room(count), 0.0f); }

}  // namespace

bool threads_share_columns(const ForwardLoad& load) {
  constexpr double kFewTokens = 32;
  // With more tokens, where a thread that owned some would read an expert's weights for fewer rows than this …
  constexpr double kFewRows = 24;
  // … and what it need not read where it owns columns is worth the rows' way through memory.
  constexpr double kManyBytes = 8 << 20, kMostBetween = 16 << 20;
  if (load.tokens <= kFewTokens) return true;
  const double threads = at::get_num_threads();
  const double weights = load.experts * (load.w1_rows + load.H) * load.D * load.bytes;
  return load.rows < kFewRows * threads * load.experts && weights - weights / threads > kManyBytes &&
         load.between() <= kMostBetween;
}

void activate_tile(Activation function, float* x, int64_t count, float* out) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  fill_up(x, count);
  at::Tensor to = as_tensor(out, count);
  const at::Tensor from = as_tensor(x, count);
  switch (function) {
    case Activation::kRelu: at::relu_out(to, from); return;
    case Activation::kGelu: at::gelu_out(to, from); return;
    case Activation::kGeluTanh: at::gelu_out(to, from, "tanh"); return;
    case Activation::kSilu: at::silu_out(to, from); return;
    default: throw Failure("activate_tile: a gated activation is no function of one element");
  }
}

void activate_tile_backward(Activation function, float* gradient, float* x, int64_t count, float* out) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  fill_up(x, count);
  fill_up(gradient, count);
  at::Tensor to = as_tensor(out, count);
  const at::Tensor of_out = as_tensor(gradient, count), from = as_tensor(x, count);
  switch (function) {
    case Activation::kRelu: at::threshold_backward_out(to, of_out, from, 0); return;
    case Activation::kGelu: at::gelu_backward_out(to, of_out, from); return;
    case Activation::kGeluTanh: at::gelu_backward_out(to, of_out, from, "tanh"); return;
    case Activation::kSilu: at::silu_backward_out(to, of_out, from); return;
    default: throw Failure("activate_tile_backward: a gated activation is no function of one element");
  }
}

BiasRows::BiasRows(const at::Tensor& bias, at::ScalarType type, std::span<const int64_t> experts) {
  if (!bias.defined()) return;
  if (type != at::kBFloat16 || bias.scalar_type() != at::kFloat) {
    rows_ = bias.to(type).to(at::kFloat).contiguous();
    return;
  }
  // Only of these: to round the biases of all experts would take as long as the products of one token.
  const at::Tensor from = bias.contiguous();
  rows_ = at::empty_like(from);
  for (const int64_t e : experts) {
    const float* in = from.const_data_ptr<float>() + e * from.size(1);
    float* out = rows_.mutable_data_ptr<float>() + e * from.size(1);
    std::transform(in, in + from.size(1), out, [](float b) { return static_cast<float>(c10::BFloat16(b)); });
  }
}

std::vector<float> row_weights(const at::Tensor& weight, const ExpertRows& rows) {
  const at::Tensor fp32 = weight.to(at::kFloat).contiguous();
  const float* from = fp32.const_data_ptr<float>();
  std::vector<float> out(rows.slot.size());
  for (size_t r = 0; r < out.size(); ++r) out[r] = from[rows.slot[r]];
  return out;
}

bool moe_mlp_cpu_takes(at::ScalarType type, int64_t H, Activation activation) {
  return has_block_gemm(type) && (!is_gated(activation) || in_pairs(type, H));  // where the rows of values begin
}

bool moe_mlp_cpu_takes(const at::Tensor& x, const MlpWeights& weights, Activation activation) {
  const auto type = x.scalar_type(), w = weights.w1.scalar_type();
  return x.device().is_cpu() && weights.w2.scalar_type() == w && (w == type || w == at::kFloat) &&
         moe_mlp_cpu_takes(type, weights.w2.size(2), activation);
}

}  // namespace smoe
