#include "smoe/kernels/block_gemm.h"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>

#include <array>

#include "smoe/kernels/instruction_sets.h"

namespace smoe {
namespace {

/// LibTorch says that the microkernel for bf16 is missing by throwing.
bool has_bf16() {
  const std::array<c10::BFloat16, 4> a{}, b{};
  std::array<float, 4> c{};
  try {
    block_gemm(2, 2, 2, a.data(), 2, b.data(), 2, c.data(), 2, false);
  } catch (const std::exception&) {
    return false;
  }
  release_block_gemm(c10::kBFloat16);
  return true;
}

/// Where that for fp32 is missing it multiplies by BLAS, whose bits do not keep the promise of block_gemm. oneDNN has it from
/// AVX2 on, and with AVX-512 it has both or neither.
bool has_fp32(bool bf16) {
#if defined(__x86_64__)
  return at::hasMKLDNN() && processor_has_avx2() && (bf16 || !__builtin_cpu_supports("avx512f"));
#else
  return bf16;
#endif
}

}  // namespace

bool has_block_gemm(c10::ScalarType type) {
  // torch.backends.mkldnn can switch oneDNN off and on again.
  if (!at::globalContext().userEnabledMkldnn()) return false;
  static const bool kBf16 = has_bf16(), kFp32 = has_fp32(kBf16);
  return (type == c10::kFloat && kFp32) || (type == c10::kBFloat16 && kBf16);
}

void block_gemm(int64_t M, int64_t N, int64_t K, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                int64_t ldc, bool add) {
  at::native::cpublas::brgemm(M, N, K, lda, ldb, ldc, add, a, b, c, /*is_vnni=*/false);
}

void block_gemm(int64_t M, int64_t N, int64_t K, const c10::BFloat16* a, int64_t lda, const c10::BFloat16* b,
                int64_t ldb, float* c, int64_t ldc, bool add) {
  at::native::cpublas::brgemm(M, N, K, lda, ldb, ldc, add, a, b, c, /*is_vnni=*/true);
}

void release_block_gemm(c10::ScalarType type) { at::native::cpublas::brgemm_release(type != c10::kFloat); }

}  // namespace smoe
