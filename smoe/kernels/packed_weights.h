// Expert weights as second operands of block products, packed once for each version of a parameter.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>

namespace smoe {

/// Which product a weight [E, out, in] is packed for.
enum class WeightUse {
  kForward,   ///< x [·, in] → [·, out]: each expert's matrix is Wᵀ, K = in, N = out
  kBackward,  ///< gradient [·, out] → [·, in]: it is W, K = out, N = in
};

/// Columns of a block of a packed matrix.
inline constexpr int64_t kPackedColumns = 64;

/// Rows that a packed matrix of K rows has: bf16 goes in pairs.
inline int64_t packed_rows(int64_t K, at::ScalarType type) { return type == at::kBFloat16 ? (K + 1) / 2 * 2 : K; }

/// The experts whose matrices a call reads, all where it does not say. The other matrices of what it gets may be old.
using ReadExperts = std::optional<std::span<const int64_t>>;

/// w [E, out, in], fp32 or of dtype `type`, as [E, parts, ⌈N / 64⌉, packed_rows(K), 64] of dtype `type` (fp32 or bf16),
/// where the N · parts columns of a matrix are so many parts side by side: block n of a part holds its columns [64 n,
/// 64 n + 64) in the order that block_gemm wants; what lies past K is zero, past N zero or arbitrary. The result is kept
/// until the tensor changes: its version counter tells, and for writes through `data()`, which do not move the counter
/// (LibTorch's SGD makes such), sixteen numbers of each expert that is read, one of each sixteenth of its matrix: they tell
/// of a write to most of it, hardly of one to a few numbers. Copies of tensors that are gone go when others are packed, now
/// and then, or by forget_packed_weights() (moe_mlp.h). Tensors without a version (inference mode) are packed at every call.
at::Tensor packed_weights(const at::Tensor& w, WeightUse use, int64_t parts, at::ScalarType type,
                          ReadExperts read = std::nullopt);

/// The same for the forward pass of a training step: what has to be packed is packed for the backward pass, too (in one
/// part), while it is in the processor, where the shape allows that.
at::Tensor packed_training_weights(const at::Tensor& w, int64_t parts, at::ScalarType type);

/// The same, made anew at each call.
at::Tensor pack_weights(const at::Tensor& w, WeightUse use, int64_t parts, at::ScalarType type);

/// Bytes of packed_weights() of matrices [K, N], one for each of so many experts, in so many parts side by side.
double packed_bytes(int64_t experts, int64_t parts, int64_t K, int64_t N, at::ScalarType type);

}  // namespace smoe
