// Attention with relative positions, as Transformer-XL has it (Dai et al., ACL 2019, §3.3).
#pragma once

#include <torch/nn/module.h>

#include "smoe/tensor/precision.h"
#include "smoe/tensor/random_stream.h"

namespace smoe {

/// What all layers of one forward share.
struct AttentionInput {
  at::Tensor memory;         ///< [B, M, D], this layer's past inputs
  at::Tensor positions;      ///< [M + S, D], row t for the distance M + S − 1 − t
  at::Tensor hidden_keys;    ///< bool [S, M + S], true where a query must not see a key
  at::Tensor content_bias;   ///< u [N, P], shared by all layers
  at::Tensor position_bias;  ///< v [N, P], shared by all layers
  double dropout = 0;        ///< of the probabilities
  uint64_t dropout_key = 0;
  Precision precision = Precision::kFull;
};

/// score[i, j] = ((Q_i + u)·K_j + (Q_i + v)·W_r R_{i−j}) / √P, softmax over the visible j, values, output projection.
/// All matrices are bias-free: qkv [3·N·P, D] (rows Q, K, V, head-major), position W_r [N·P, D], output [D, N·P].
class RelativeAttention : public torch::nn::Module {
 public:
  RelativeAttention(int64_t width, int64_t heads, int64_t head_width, double init_std, const RandomStream& random);

  /// x [B, S, D] → [B, S, D].
  at::Tensor forward(const at::Tensor& x, const AttentionInput& input);

 private:
  int64_t heads_, head_width_;
  at::Tensor qkv_, position_, output_;
};

/// The table of sines and cosines for the distances length−1 … 0: [length, width], sines first, then cosines.
at::Tensor relative_positions(int64_t length, int64_t width, const at::TensorOptions& options);

/// Which keys each of S queries must not see, bool [S, M + S]: later ones and, where window ≥ 0, those more than
/// `window` places back.
at::Tensor hidden_keys(int64_t segment, int64_t memory, int64_t window, at::Device device);

/// out[.., i, j] = x[.., i, j + (S − 1 − i)] where that exists; x [G, S, L] → [G, S, L]. Entries past the diagonal
/// j = i + L − S hold values of other rows and must be masked.
at::Tensor relative_shift(const at::Tensor& x);

}  // namespace smoe
