// Products of small blocks, on oneDNN's microkernels as LibTorch exports them.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>

#include <cstdint>

namespace smoe {

/// Whether block_gemm computes in this dtype on this processor: fp32 and bf16, where LibTorch was built with the
/// microkernels, the processor has their instructions, and oneDNN is not switched off
/// (`torch.backends.mkldnn.enabled`), which between a forward pass and its backward pass it must not be.
bool has_block_gemm(c10::ScalarType type);

/// C [M, N] = A [M, K] · B [K, N], or C += …, with leading dimensions lda, ldb, ldc; all row-major, fp32 sums in ascending
/// k. An element's bits depend on its row of A and its column of B alone, not on M, N or its place. Runs on the thread
/// that calls it. Any size; best with M and N around 64.
void block_gemm(int64_t M, int64_t N, int64_t K, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                int64_t ldc, bool add);

/// The same with bf16 operands: K even, and B in pairs of rows, element (k, n) at (k / 2) · 2 · ldb + 2 · n + k % 2.
void block_gemm(int64_t M, int64_t N, int64_t K, const c10::BFloat16* a, int64_t lda, const c10::BFloat16* b,
                int64_t ldb, float* c, int64_t ldc, bool add);

/// Whether rows of this width, one after the other, begin with whole pairs, in which bf16 operands go.
inline bool in_pairs(c10::ScalarType type, int64_t width) { return type != c10::kBFloat16 || width % 2 == 0; }

/// Gives back what the microkernels hold of the processor; call it on a thread when its last block_gemm is done.
void release_block_gemm(c10::ScalarType type);

}  // namespace smoe
