// Linear maps in fp32 and bf16 on block microkernels.
//
// Rows in tiles: a tile and a block of the packed weight stay in the cache. The weight's gradient is cut by its rows, one
// slice a thread, so that each sum has one order whatever the threads.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <type_traits>
#include <vector>

#include "smoe/base/error.h"
#include "smoe/kernels/block_tiles.h"
#include "smoe/kernels/linear.h"
#include "smoe/tensor/once_differentiable.h"

namespace smoe {
namespace {

using c10::BFloat16;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kTileRows = 128;
constexpr int64_t kWide = 128;  // columns that are rounded together

/// Rows of one sequence, of its memory or of x, that are worked on together.
template <class T>
struct Tile {
  int64_t row;    ///< the first one's place among the rows of the result
  int64_t fresh;  ///< and among those of x; −1: they are the memory's
  int64_t count;
  const T* data;
};

/// memory [B, M, I], which may be undefined, and x [B, S, I] in tiles, in the order of the result's rows [B, M + S].
template <class T>
std::vector<Tile<T>> tiles_of(const at::Tensor& memory, const at::Tensor& x) {
  const int64_t B = x.size(0), S = x.size(1), I = x.size(2), M = memory.defined() ? memory.size(1) : 0;
  std::vector<Tile<T>> tiles;
  const auto add = [&](const T* data, int64_t row, int64_t fresh, int64_t rows) {
    for (int64_t r = 0; r < rows; r += kTileRows) {
      tiles.push_back({row + r, fresh < 0 ? -1 : fresh + r, std::min(kTileRows, rows - r), data + r * I});
    }
  };
  for (int64_t b = 0; b < B; ++b) {
    if (M > 0) add(memory.const_data_ptr<T>() + b * M * I, b * (M + S), -1, M);
    add(x.const_data_ptr<T>() + b * S * I, b * (M + S) + M, b * S, S);
  }
  return tiles;
}

/// out [rows, N] = a [rows, K] · a packed matrix, plus bias [N] where that is not null. `sum` [rows, kWide] is used for bf16.
template <class T, class Out>
void multiply_tile(int64_t rows, int64_t N, int64_t K, const T* a, const T* packed, int64_t block_stride,
                   const float* bias, float* sum, Out* out) {
  constexpr bool kDirect = std::is_same_v<Out, float>;
  for (int64_t first = 0; first < N; first += kWide) {
    const int64_t width = std::min(kWide, N - first), ld = kDirect ? N : width;
    float* to = sum;
    if constexpr (kDirect) to = out + first;
    for (int64_t r = 0; bias != nullptr && r < rows; ++r) std::copy_n(bias + first, width, to + r * ld);
    multiply_blocks(rows, width, K, a, K, packed + first / kPackedColumns * block_stride, kPackedColumns, block_stride,
                    to, ld, bias != nullptr);
    if constexpr (!kDirect) {
      const auto& passes = row_passes<PassOf<Out>>();
      passes.put_sums(sum, rows, width, as_pass(out + first), N);
    }
  }
}

/// The tiles' rows times a packed matrix [K, N]. `from` and `to` give where a tile's rows [count, K] stand and where they go.
template <class T, class Out, class From, class To>
void times(const std::vector<Tile<T>>& tiles, const at::Tensor& packed, int64_t K, int64_t N, const float* bias,
           const From& from, const To& to) {
  at::parallel_for(0, std::ssize(tiles), 1, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    float* sum = scratch.take<float>(kTileRows * kWide);
    for (int64_t i = begin; i < end; ++i) {
      const Tile<T>& tile = tiles[static_cast<size_t>(i)];
      multiply_tile(tile.count, N, K, from(tile), packed.const_data_ptr<T>(), packed.stride(2), bias, sum, to(tile));
    }
    release_block_gemm(packed.scalar_type());
  });
}

struct WeightGradients {
  at::Tensor weight, bias;  // fp32
};

/// weight [O, I] = gradientᵀ [O, R] · the tiles' rows [R, I]; bias [O] = Σ_r gradient[r], where it is wanted.
template <class T>
WeightGradients weight_gradients(const std::vector<Tile<T>>& tiles, int64_t I, const at::Tensor& gradient,
                                 bool with_bias) {
  const int64_t O = gradient.size(1);
  const at::TensorOptions fp32 = gradient.options().dtype(at::kFloat);
  WeightGradients out{at::empty({O, I}, fp32), with_bias ? at::zeros({O}, fp32) : at::Tensor()};
  const auto& passes = row_passes<PassOf<T>>();
  std::vector<int32_t> row(static_cast<size_t>(kTileRows));
  std::iota(row.begin(), row.end(), 0);
  const T* g = gradient.const_data_ptr<T>();
  float* sum = out.weight.mutable_data_ptr<float>();
  float* bias = with_bias ? out.bias.mutable_data_ptr<float>() : nullptr;
  int64_t most = 0;
  for (const Tile<T>& tile : tiles) most = std::max(most, round_up(tile.count, 8));
  const int64_t slice = round_up(ceil_div(O, at::get_num_threads()), kPackedColumns);
  at::parallel_for(0, ceil_div(O, slice), 1, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    T* own = scratch.take<T>(most * slice);  // the slice's columns of the gradient, side by side
    T* turned = scratch.take<T>(most * slice);
    T* operand = scratch.take<T>(most * round_up(I, kPackedColumns));
    for (const Tile<T>& tile : tiles) {
      const int64_t rows = round_up(tile.count, 8);
      passes.gather_transposed(as_pass(tile.data), I, row.data(), nullptr, tile.count, rows, nullptr, as_pass(operand),
                               nullptr);
      for (int64_t o = begin * slice; o < std::min(end * slice, O); o += slice) {
        const int64_t width = std::min(slice, O - o);
        const T* columns = g + tile.row * O;
        if (width < O) {
          for (int64_t r = 0; r < tile.count; ++r) std::copy_n(columns + r * O + o, width, own + r * width);
          columns = own;
        }
        passes.gather_transposed(as_pass(columns), width, row.data(), nullptr, tile.count, rows, as_pass(turned),
                                 nullptr, bias != nullptr ? bias + o : nullptr);
        multiply_blocks(width, I, rows, turned, rows, operand, kPackedColumns, kPackedColumns * rows, sum + o * I, I,
                        &tile != tiles.data());
      }
    }
    release_block_gemm(gradient.scalar_type());
  });
  return out;
}

template <class T, class Out>
at::Tensor forward(const at::Tensor& memory, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const int64_t M = memory.defined() ? memory.size(1) : 0, I = x.size(2), O = weight.size(0);
  const at::ScalarType type = x.scalar_type();
  at::Tensor out = at::empty({x.size(0), M + x.size(1), O}, x.options().dtype(c10::CppTypeToScalarType<Out>::value));
  Out* to = out.mutable_data_ptr<Out>();
  times<T, Out>(
      tiles_of<T>(memory, x), pack_weights(weight.unsqueeze(0), WeightUse::kForward, 1, type), I, O,
      bias.defined() ? bias.const_data_ptr<float>() : nullptr, [](const Tile<T>& tile) { return tile.data; },
      [&](const Tile<T>& tile) { return to + tile.row * O; });
  return out;
}

struct Wanted {
  bool x, weight, bias;
};

/// The gradients of x, weight and bias; `gradient` [R, O] has the dtype of x.
template <class T>
variable_list backward(const at::Tensor& memory, const at::Tensor& x, const at::Tensor& weight,
                       const at::Tensor& gradient, const Wanted& wanted) {
  const int64_t I = x.size(2), O = weight.size(0);
  const std::vector<Tile<T>> tiles = tiles_of<T>(memory, x);
  at::Tensor of_x;
  WeightGradients of_weight;
  if (wanted.x) {
    of_x = at::empty_like(x);
    T* to = of_x.mutable_data_ptr<T>();
    const T* from = gradient.const_data_ptr<T>();
    std::vector<Tile<T>> fresh = tiles;
    std::erase_if(fresh, [](const Tile<T>& tile) { return tile.fresh < 0; });
    times<T, T>(
        fresh, pack_weights(weight.unsqueeze(0), WeightUse::kBackward, 1, x.scalar_type()), O, I, nullptr,
        [&](const Tile<T>& tile) { return from + tile.row * O; },
        [&](const Tile<T>& tile) { return to + tile.fresh * I; });
  }
  if (wanted.weight) {
    of_weight = weight_gradients<T>(tiles, I, gradient, wanted.bias);
    of_weight.weight = of_weight.weight.to(weight.scalar_type());
  }
  return {of_x, of_weight.weight, of_weight.bias};
}

class LinearFunction : public torch::autograd::Function<LinearFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& memory,
                            at::ScalarType out) {
    context->save_for_backward({x, weight, memory.value_or(at::Tensor())});
    context->saved_data["x"] = x.requires_grad();
    context->saved_data["weight"] = weight.requires_grad() || (bias && bias->requires_grad());
    context->saved_data["bias"] = bias.has_value();
    const at::Tensor past = memory.value_or(at::Tensor()), added = bias ? bias->contiguous() : at::Tensor();
    if (x.scalar_type() == at::kFloat) return smoe::forward<float, float>(past, x, weight, added);
    return out == at::kFloat ? smoe::forward<BFloat16, float>(past, x, weight, added)
                             : smoe::forward<BFloat16, BFloat16>(past, x, weight, added);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &memory = saved[2];
    const at::Tensor gradient = gradients[0].to(x.scalar_type()).reshape({-1, weight.size(0)}).contiguous();
    const Wanted wanted{.x = context->saved_data["x"].toBool(),
                        .weight = context->saved_data["weight"].toBool(),
                        .bias = context->saved_data["bias"].toBool()};
    variable_list out = x.scalar_type() == at::kFloat ? smoe::backward<float>(memory, x, weight, gradient, wanted)
                                                      : smoe::backward<BFloat16>(memory, x, weight, gradient, wanted);
    out.resize(5);
    return once_differentiable(std::move(out), {gradients[0], x, weight, memory}, "linear");
  }
};

bool is_plain(const at::Tensor& tensor) {
  return !tensor.defined() || (tensor.is_cpu() && tensor.scalar_type() == at::kFloat);
}

}  // namespace

bool linear_cpu_takes(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const at::ScalarType type = x.scalar_type();
  const bool half =
      type == at::kBFloat16 && weight.dim() == 2 && in_pairs(type, weight.size(0)) && in_pairs(type, weight.size(1));
  const bool types = is_plain(weight) || (half && weight.is_cpu() && weight.scalar_type() == type);
  const bool added = is_plain(bias) && (!bias.defined() || bias.sizes() == weight.sizes().slice(0, 1));
  return x.is_cpu() && (type == at::kFloat || half) && types && x.dim() >= 2 && weight.dim() == 2 && added &&
         weight.numel() > 0 && x.size(-1) == weight.size(1) && x.numel() / weight.size(1) >= kLinearRows &&
         has_block_gemm(type);
}

at::Tensor linear_cpu(const at::Tensor& memory, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      at::ScalarType out) {
  require(!memory.defined() || (x.dim() == 3 && memory.dim() == 3 && memory.size(0) == x.size(0) &&
                                memory.size(2) == x.size(2) && memory.scalar_type() == x.scalar_type()),
          "linear: memory must be [B, M, I] for x [B, S, I], of one dtype, got ",
          memory.defined() ? memory.sizes() : at::IntArrayRef(), " for ", x.sizes());
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  shape.back() = weight.size(0);
  const auto optional = [](const at::Tensor& tensor) {
    return tensor.defined() ? std::optional(tensor.contiguous()) : std::nullopt;
  };
  if (memory.defined()) shape[1] += memory.size(1);
  const at::Tensor rows = memory.defined() ? x : x.reshape({1, -1, x.size(-1)});
  return LinearFunction::apply(rows.contiguous(), weight, optional(bias), optional(memory), out).view(shape);
}

}  // namespace smoe
