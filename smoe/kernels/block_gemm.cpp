#include "smoe/kernels/block_gemm.h"

#include <ATen/native/CPUBlas.h>

#include <array>

namespace smoe {
namespace {

/// LibTorch says that a microkernel is missing by throwing at its first use.
template <class T>
bool works() {
  const std::array<T, 4> a{}, b{};
  std::array<float, 4> c{};
  try {
    block_gemm(2, 2, 2, a.data(), 2, b.data(), 2, c.data(), 2, false);
  } catch (const std::exception&) {
    return false;
  }
  release_block_gemm(c10::CppTypeToScalarType<T>::value);
  return true;
}

}  // namespace

bool has_block_gemm(c10::ScalarType type) {
  static const bool kFp32 = works<float>(), kBf16 = works<c10::BFloat16>();
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
