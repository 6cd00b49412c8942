// What the two passes of the mixture's CPU body share.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "smoe/kernels/block_tiles.h"
#include "smoe/kernels/expert_rows.h"
#include "smoe/kernels/moe_mlp_bodies.h"

namespace smoe {

/// The sizes of a call.
struct MlpSizes {
  int64_t T, K, E, D, H;
  int64_t halves;  ///< 2 with a gated activation, else 1: w1 has halves · H rows

  explicit MlpSizes(const MlpCall& call)
      : T(call.x.size(0)),
        K(call.expert.size(1)),
        E(call.weights.w1.size(0)),
        D(call.x.size(1)),
        H(call.weights.w2.size(2)),
        halves(is_gated(call.options.activation) ? 2 : 1) {}
};

/// What decides how threads share a forward pass, as numbers whose products do not overflow.
struct ForwardLoad {
  double tokens, rows;            ///< T, and the assignments to experts
  double experts, D, H, w1_rows;  ///< experts that have rows; H or 2 H
  double bytes;                   ///< of an element in products

  /// Bytes of all rows before, between and after the products.
  double between() const { return rows * ((D + H) * bytes + 4 * D); }
};

/// Whether threads own columns of the weights instead of tokens. What is between() goes through memory then: of more than 32
/// tokens 16 MiB at most.
bool threads_share_columns(const ForwardLoad& load);

/// Columns of the hidden layer that are worked on at once; a sum over the hidden layer is one over such slices.
inline constexpr int64_t kHiddenSlice = 256;

/// The packed matrices of one weight.
template <class T>
class PackedExperts {
 public:
  explicit PackedExperts(at::Tensor packed) : packed_(std::move(packed)) {}

  /// Where the columns from `column` (a multiple of 64) and the rows from `row` (for bf16 even) of a part of expert e's
  /// matrix begin.
  const T* block(int64_t e, int64_t part, int64_t row, int64_t column) const {
    return packed_.const_data_ptr<T>() + e * packed_.stride(0) + part * packed_.stride(1) +
           column / kPackedColumns * packed_.stride(2) + row * kPackedColumns;
  }
  int64_t block_stride() const { return packed_.stride(2); }

 private:
  at::Tensor packed_;
};

/// A bias [E, N] as fp32 numbers, rounded to the dtype of x, for the experts that are named; null where there is none.
class BiasRows {
 public:
  BiasRows(const at::Tensor& bias, at::ScalarType type, std::span<const int64_t> experts);

  const float* of(int64_t e) const {
    return rows_.defined() ? rows_.const_data_ptr<float>() + e * rows_.size(1) : nullptr;
  }

 private:
  at::Tensor rows_;
};

/// The routing's weights [T, K] in the order of the rows.
std::vector<float> row_weights(const at::Tensor& weight, const ExpertRows& rows);

/// What the passes call the function of an activation's gate.
inline GateFunction pass_function(Activation activation) {
  static_assert(static_cast<int>(GateFunction::kSilu) == static_cast<int>(Activation::kSilu));
  return static_cast<GateFunction>(gate_function(activation));
}

/// A function of each element of a tile, through LibTorch: out = f(x), and the gradient of x from that of f(x). Elements'
/// bits do not depend on their places: `count` is filled up to whole vectors, for which there must be room.
void activate_tile(Activation function, float* x, int64_t count, float* out);
void activate_tile_backward(Activation function, float* gradient, float* x, int64_t count, float* out);

/// What such a tile has room for.
inline int64_t tile_room(int64_t count) { return round_up(count, 64); }

}  // namespace smoe
