// Linear maps in fp32 on block microkernels.
//
// Rows in tiles: a tile and a block of the packed weight stay in the cache. The weight's gradient is cut by its rows, one
// slice a thread, so that each sum has one order whatever the threads.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>
#include <optional>

#include "smoe/kernels/block_tiles.h"
#include "smoe/kernels/linear.h"

namespace smoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kTileRows = 128;

/// out [R, N] = rows [R, K] · the packed matrix of `weight` in that use, plus bias [N] where it is defined.
at::Tensor times(const at::Tensor& rows, const at::Tensor& weight, WeightUse use, const at::Tensor& bias) {
  const int64_t R = rows.size(0), K = rows.size(1), N = weight.size(use == WeightUse::kForward ? 0 : 1);
  const at::Tensor packed = pack_weights(weight.unsqueeze(0), use, 1, at::kFloat);
  at::Tensor out = at::empty({R, N}, rows.options());
  const float *a = rows.const_data_ptr<float>(), *b = packed.const_data_ptr<float>();
  const float* added = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  float* c = out.mutable_data_ptr<float>();
  at::parallel_for(0, ceil_div(R, kTileRows), 1, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t first = tile * kTileRows, count = std::min(kTileRows, R - first);
      float* to = c + first * N;
      for (int64_t r = 0; added != nullptr && r < count; ++r) std::copy_n(added, N, to + r * N);
      multiply_blocks(count, N, K, a + first * K, K, b, kPackedColumns, packed.stride(2), to, N, added != nullptr);
    }
    release_block_gemm(at::kFloat);
  });
  return out;
}

struct WeightGradients {
  at::Tensor weight, bias;
};

/// weight [O, I] = gradientᵀ [O, R] · x [R, I]; bias [O] = Σ_r gradient[r], where it is wanted.
WeightGradients weight_gradients(const at::Tensor& gradient, const at::Tensor& x, bool with_bias) {
  const int64_t R = x.size(0), I = x.size(1), O = gradient.size(1), tile_rows = std::min(kTileRows, round_up(R, 8));
  WeightGradients out{at::empty({O, I}, x.options()), with_bias ? at::zeros({O}, x.options()) : at::Tensor()};
  const RowPasses<float>& passes = row_passes<float>();
  std::vector<int32_t> row(static_cast<size_t>(kTileRows));
  std::iota(row.begin(), row.end(), 0);
  const float *g = gradient.const_data_ptr<float>(), *from = x.const_data_ptr<float>();
  float* sum = out.weight.mutable_data_ptr<float>();
  float* bias = with_bias ? out.bias.mutable_data_ptr<float>() : nullptr;
  const int64_t slice = round_up(ceil_div(O, at::get_num_threads()), kPackedColumns);
  at::parallel_for(0, ceil_div(O, slice), 1, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    float* own = scratch.take<float>(tile_rows * slice);  // the slice's columns of the gradient, side by side
    float* turned = scratch.take<float>(tile_rows * slice);
    float* operand = scratch.take<float>(tile_rows * round_up(I, kPackedColumns));
    for (int64_t first_row = 0; first_row < R; first_row += kTileRows) {
      const int64_t count = std::min(kTileRows, R - first_row), rows = round_up(count, 8);
      passes.gather_transposed(from + first_row * I, I, row.data(), nullptr, count, rows, nullptr, operand, nullptr);
      for (int64_t o = begin * slice; o < std::min(end * slice, O); o += slice) {
        const int64_t width = std::min(slice, O - o);
        for (int64_t r = 0; r < count; ++r) std::copy_n(g + (first_row + r) * O + o, width, own + r * width);
        passes.gather_transposed(own, width, row.data(), nullptr, count, rows, turned, nullptr,
                                 bias != nullptr ? bias + o : nullptr);
        multiply_blocks(width, I, rows, turned, rows, operand, kPackedColumns, kPackedColumns * rows, sum + o * I, I,
                        first_row > 0);
      }
    }
    release_block_gemm(at::kFloat);
  });
  return out;
}

class LinearFunction : public torch::autograd::Function<LinearFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    context->save_for_backward({x, weight});
    context->saved_data["x"] = x.requires_grad();
    context->saved_data["weight"] = weight.requires_grad() || (bias && bias->requires_grad());
    context->saved_data["bias"] = bias.has_value();
    return times(x, weight, WeightUse::kForward, bias ? bias->contiguous() : at::Tensor());
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor gradient = gradients[0].contiguous();
    at::Tensor of_x;
    WeightGradients of_weight;
    if (context->saved_data["x"].toBool()) of_x = times(gradient, saved[1], WeightUse::kBackward, {});
    if (context->saved_data["weight"].toBool()) {
      of_weight = weight_gradients(gradient, saved[0], context->saved_data["bias"].toBool());
    }
    return {of_x, of_weight.weight, of_weight.bias};
  }
};

bool is_plain(const at::Tensor& tensor) {
  return !tensor.defined() || (tensor.is_cpu() && tensor.scalar_type() == at::kFloat);
}

}  // namespace

bool linear_cpu_takes(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return is_plain(x) && is_plain(weight) && is_plain(bias) && x.dim() >= 2 && weight.dim() == 2 && weight.numel() > 0 &&
         x.size(-1) == weight.size(1) && x.numel() / weight.size(1) >= kLinearRows && has_block_gemm(at::kFloat);
}

at::Tensor linear_cpu(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  shape.back() = weight.size(0);
  const std::optional<at::Tensor> added = bias.defined() ? std::optional(bias) : std::nullopt;
  return LinearFunction::apply(x.reshape({-1, x.size(-1)}).contiguous(), weight, added).view(shape);
}

}  // namespace smoe
