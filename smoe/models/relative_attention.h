// Attention with relative positions, as Transformer-XL has it (Dai et al., ACL 2019, §3.3).
#pragma once

#include <torch/nn/module.h>

#include <memory>

#include "smoe/kernels/pass_memory.h"
#include "smoe/models/memory.h"
#include "smoe/models/mixture_projection.h"
#include "smoe/tensor/precision.h"
#include "smoe/tensor/random_stream.h"

namespace smoe {

/// What all layers of one forward share.
struct AttentionInput {
  /// This layer's. One of keys and values gets those of the segment too.
  LayerMemory* memory = nullptr;
  /// [L, D], row t for the distance L − 1 − t, L = M + S. Beside a memory of keys and values, L may be more, and the
  /// projection stays there for passes that bring none.
  at::Tensor positions;
  int64_t window = -1;       ///< a query sees at most so many places back; −1: all
  at::Tensor content_bias;   ///< u [N, P], shared by all layers
  at::Tensor position_bias;  ///< v [N, P], shared by all layers
  double dropout = 0;        ///< of the probabilities
  uint64_t dropout_key = 0;
  Precision precision = Precision::kFull;
  RouteInput route;  ///< for a projection that is a mixture: step, progress, training and random stream
};

/// The mixture that a layer's attention projects with, if any.
struct AttentionMixture {
  MoeConfig moe = {};   ///< the router's settings
  int64_t experts = 0;  ///< 0: no mixture
  int64_t k = 1;
};

/// score[i, j] = ((Q_i + u)·K_j + (Q_i + v)·W_r R_{i−j}) / √P, softmax over the visible j, values, output projection.
/// All matrices are bias-free: qkv [3·N·P, D] (rows Q, K, V, head-major), position W_r [N·P, D], output [D, N·P].
/// Where the projection is a mixture, its experts take the place of qkv, and have biases.
class RelativeAttention : public torch::nn::Module {
 public:
  RelativeAttention(int64_t width, int64_t heads, int64_t head_width, double init_std, const RandomStream& random,
                    const AttentionMixture& mixture = {});

  /// x [B, S, D] → [B, S, D].
  at::Tensor forward(const at::Tensor& x, const AttentionInput& input);

  /// As LanguageModel::empty_memory, of this layer.
  LayerMemory empty_memory(int64_t batch, MemoryOf of) const;

  /// The projection where it is a mixture, or nullptr.
  const MixtureProjection* mixture() const { return mixture_.get(); }

  /// What a forward with B = `batch`, S = `segment`, M = `memory` takes, with `training` its backward pass too.
  PassMemory pass_memory(int64_t batch, int64_t segment, int64_t memory, bool dropout, Precision precision,
                         bool training) const;
  /// As LanguageModel::memory_bytes, of this layer.
  double memory_bytes(int64_t batch, int64_t segment, int64_t memory, MemoryOf of, Precision precision) const;

 private:
  int64_t heads_, head_width_;
  std::shared_ptr<MixtureProjection> mixture_;
  at::Tensor qkv_, position_, output_;  // no qkv where there is a mixture
};

/// The table of sines and cosines for the distances length−1 … 0: [length, width], sines first, then cosines.
at::Tensor relative_positions(int64_t length, int64_t width, const at::TensorOptions& options);

}  // namespace smoe
