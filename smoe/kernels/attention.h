// Attention with relative positions (Dai et al., ACL 2019, §3.3) between the projections, over all heads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "smoe/kernels/pass_memory.h"

namespace smoe {

struct RelativeAttentionInput {
  at::Tensor query;          ///< [B, S, N, P], for the last S of L places
  at::Tensor key_value;      ///< [B, L, 2, N, P], keys first
  at::Tensor position;       ///< [L, N, P], row t for the distance L − 1 − t
  at::Tensor content_bias;   ///< u [N, P]
  at::Tensor position_bias;  ///< v [N, P]
  int64_t window = -1;       ///< a query sees at most so many places back; −1: all
  double dropout = 0;        ///< of the probabilities, by the rule of kernels/dropout.h over [N, B, S, L]
  uint64_t dropout_key = 0;
};

/// out [B, S, N·P] = Σ_j probability[i, j] · V_j, the softmax of ((Q_i + u)·K_j + (Q_i + v)·R_{i−j}) / √P over the visible
/// j ≤ i + L − S. query, key_value and position of one dtype, fp32, fp64 or bf16, which the result has too; biases, softmax
/// and sums in fp32 (fp64 for fp64). With autograd. Throws UserError where shapes do not fit. On a CPU with oneDNN's block
/// microkernels, fp32 and bf16 go block by block through the cache, or for S = 1 read keys and values where they stand,
/// and keep no [S, L] tensor between forward and backward; on a GPU our CUDA kernel, without dropout, keeps the
/// probabilities alone. All else, and SMOE_KERNEL=reference, goes through the plain body.
at::Tensor relative_attention(const RelativeAttentionInput& input);

/// The sizes of a call.
struct AttentionSizes {
  int64_t batch, segment, length, heads, head_width;  ///< B, S, L, N, P
};

/// What a call of such sizes in `type` takes, for the body that this process would choose on a CPU; its inputs, which the
/// backward pass needs, count as kept. With `training` also the backward pass.
PassMemory relative_attention_memory(const AttentionSizes& sizes, at::ScalarType type, bool dropout, bool training);

/// The bodies, which agree to rounding: LibTorch's operators and autograd, and the one that works in blocks.
at::Tensor relative_attention_reference(const RelativeAttentionInput& input);
bool relative_attention_cpu_takes(const RelativeAttentionInput& input);
at::Tensor relative_attention_cpu(const RelativeAttentionInput& input);

/// Which keys each of S queries must not see, bool [S, M + S]: later ones and, where window ≥ 0, those more than
/// `window` places back.
at::Tensor hidden_keys(int64_t segment, int64_t memory, int64_t window, at::Device device);

/// out[.., i, j] = x[.., i, j + (S − 1 − i)] where that exists; x [G, S, L] → [G, S, L]. Entries past the diagonal
/// j = i + L − S hold values of other rows and must be masked.
at::Tensor relative_shift(const at::Tensor& x);

}  // namespace smoe
