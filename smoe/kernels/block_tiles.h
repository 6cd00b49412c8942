// What CPU bodies on block microkernels are written with: memory for tiles, and products of a tile with a packed matrix.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "smoe/kernels/block_gemm.h"
#include "smoe/kernels/packed_weights.h"
#include "smoe/kernels/row_passes.h"

namespace smoe {

/// The type that the passes have for a type of LibTorch's.
template <class T>
struct PassType {
  using type = float;
};
template <>
struct PassType<c10::BFloat16> {
  using type = Bf16;
};
template <class T>
using PassOf = PassType<T>::type;

template <class T>
PassOf<T>* as_pass(T* data) {
  return reinterpret_cast<PassOf<T>*>(data);
}
template <class T>
const PassOf<T>* as_pass(const T* data) {
  return reinterpret_cast<const PassOf<T>*>(data);
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/// Memory of one thread for its tiles, handed out in pieces that start at whole cache lines.
class Scratch {
 public:
  template <class T>
  T* take(int64_t count) {
    const size_t bytes = (static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(T) + kLine - 1) / kLine * kLine;
    pieces_.emplace_back(static_cast<std::byte*>(::operator new(bytes, std::align_val_t(kLine))));
    return reinterpret_cast<T*>(pieces_.back().get());
  }

 private:
  static constexpr size_t kLine = 64;
  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t(kLine)); }
  };
  std::vector<std::unique_ptr<std::byte[], Free>> pieces_;
};

/// Calls work(first row, rows) for the rows [first, last), in tiles of at most `most` of them, a multiple of eight, that are
/// about as large as each other; all but the last are multiples of eight.
template <class Work>
void for_each_tile(int64_t first, int64_t last, int64_t most, const Work& work) {
  for (int64_t tiles = ceil_div(last - first, most); tiles > 0; --tiles) {
    const int64_t count = std::min(round_up(ceil_div(last - first, tiles), 8), last - first);
    work(first, count);
    first += count;
  }
}

/// Asks for `rows` rows of `columns` fp32 numbers before they are needed, for the second cache.
inline void prefetch_block(const float* c, int64_t rows, int64_t columns, int64_t ldc) {
  constexpr int64_t kLine = 16;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < columns; i += kLine) __builtin_prefetch(c + r * ldc + i, 0, 2);
  }
}

/// c [M, N] = a [M, K] · b, or c += …, block by block; b in blocks of 64 columns, each of leading dimension ldb, that
/// begin block_stride elements apart.
template <class T>
void multiply_blocks(int64_t M, int64_t N, int64_t K, const T* a, int64_t lda, const T* b, int64_t ldb,
                     int64_t block_stride, float* c, int64_t ldc, bool add) {
  constexpr int64_t kRows = 128;  // of a, in one call
  for (int64_t m = 0; m < M; m += kRows) {
    for (int64_t n = 0; n < N; n += kPackedColumns) {
      // The sums of the next block: their rows lie too far apart for a processor to foresee them.
      const bool same_rows = n + kPackedColumns < N;
      const int64_t next_m = same_rows ? m : m + kRows, next_n = same_rows ? n + kPackedColumns : 0;
      if (next_m < M) {
        prefetch_block(c + next_m * ldc + next_n, std::min(kRows, M - next_m), std::min(kPackedColumns, N - next_n),
                       ldc);
      }
      block_gemm(std::min(kRows, M - m), std::min(kPackedColumns, N - n), K, a + m * lda, lda,
                 b + n / kPackedColumns * block_stride, ldb, c + m * ldc + n, ldc, add);
    }
  }
}

}  // namespace smoe
