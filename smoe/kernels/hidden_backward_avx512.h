// The backward passes between the matrices for AVX-512, for widths that are multiples of sixteen: by blocks of rows and of
// up to 64 columns, a row at a time, so that its dot product stays in the registers. Of bf16 numbers two rows at a time make
// the pairs that an operand is made of, and pairs are transposed in half as many steps as single ones.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <type_traits>

#include "smoe/kernels/row_passes_square.h"
#include "smoe/kernels/row_vectors_avx512.h"

namespace smoe {
namespace {

/// Sixteen numbers of a row after the activation and of the gradient before it.
struct HiddenPart {
  __m512 after, before;
};

/// What is made of a tile; all but `before` may be null.
template <class T>
struct HiddenOut {
  T *after, *before, *transposed;
  float *dot, *column_sum;

  /// The same from row r and column c of the tile on.
  HiddenOut at(const HiddenTile& tile, int64_t r, int64_t c) const {
    HiddenOut out = *this;
    if (after != nullptr) out.after += r * tile.ld + operand_offset(after, c);
    out.before += r * tile.ld_before + c;
    if (transposed != nullptr) out.transposed += c * tile.rows + r;
    if (dot != nullptr) out.dot += r;
    if (column_sum != nullptr) out.column_sum += c;
    return out;
  }
};

/// Rows of a block, of which a square holds sixteen vectors or pairs of them.
template <class T>
inline constexpr int64_t kBlockRows = std::is_same_v<T, float> ? kLanes : 2 * kLanes;

/// What a block ends with: the columns' sums and the transposed squares.
template <int N, class T>
inline void finish_block(const HiddenTile& tile, int64_t rows, const HiddenOut<T>& out, __m512 (&square)[N][16],
                         const __m512 (&sum)[N]) {
  for (int v = 0; v < N; ++v) {
    if (out.column_sum != nullptr) add_to(out.column_sum + v * kLanes, sum[v]);
    if (out.transposed == nullptr) continue;
    store_transposed16(square[v], rows * kLanes / kBlockRows<T>, out.transposed + v * kLanes * tile.rows,
                       tile.rows * static_cast<int64_t>(sizeof(T)));
  }
}

/// A block of N vectors of columns. row(r) gives what gives a row's parts: part(v, dots) is one, and adds to `dots` what the
/// row's dot product is the sum of. Of the `rows` the first `valid` hold a token.
template <int N, bool Exact, class Row>
inline void hidden_block(const HiddenTile& tile, int64_t rows, int64_t valid, const HiddenOut<float>& given,
                         const Row& row) {
  const HiddenOut<float> out = given;  // a copy, which no store can change
  const int64_t ld = tile.ld, ld_before = tile.ld_before;
  __m512 square[N][16], sum[N];
  for (__m512& each : sum) each = _mm512_setzero_ps();
  for (int64_t r = 0; r < rows; ++r) {
    const auto part = row(r);
    __m512 dots = _mm512_setzero_ps();
    for (int v = 0; v < N; ++v) {
      const HiddenPart both = part(v, dots);
      if (out.after != nullptr) _mm512_storeu_ps(out.after + r * ld + v * kLanes, both.after);
      _mm512_storeu_ps(out.before + r * ld_before + v * kLanes, both.before);
      square[v][r] = both.before;
      sum[v] = _mm512_add_ps(sum[v], both.before);
    }
    if (out.dot != nullptr && r < valid) out.dot[r] += _mm512_reduce_add_ps(dots);
  }
  finish_block<N>(tile, rows, out, square, sum);
}

/// The same; Exact: what stands after the activation are bf16 numbers already.
template <int N, bool Exact, class Row>
inline void hidden_block(const HiddenTile& tile, int64_t rows, int64_t valid, const HiddenOut<Bf16>& given,
                         const Row& row) {
  const HiddenOut<Bf16> out = given;
  const int64_t ld = tile.ld, ld_before = tile.ld_before;
  __m512 square[N][16], sum[N];
  for (__m512& each : sum) each = _mm512_setzero_ps();
  for (int64_t r = 0; r < rows; r += 2) {
    const auto first_part = row(r), second_part = row(r + 1);
    __m512 first_dots = _mm512_setzero_ps(), second_dots = first_dots;
    for (int v = 0; v < N; ++v) {
      const HiddenPart first = first_part(v, first_dots), second = second_part(v, second_dots);
      if (out.after != nullptr) {
        const __m512i pair = Exact ? exact_pair(first.after, second.after) : rounded_pair(first.after, second.after);
        _mm512_storeu_si512(out.after + r * ld + 2 * kLanes * v, pair);
      }
      const __m512i pair = rounded_pair(first.before, second.before);
      Bf16* const before = out.before + r * ld_before + v * kLanes;
      store_low16(before, pair);
      store_low16(before + ld_before, _mm512_srli_epi32(pair, 16));
      square[v][r / 2] = _mm512_castsi512_ps(pair);
      sum[v] = _mm512_add_ps(sum[v], _mm512_add_ps(first.before, second.before));
    }
    if (out.dot != nullptr && r < valid) out.dot[r] += _mm512_reduce_add_ps(first_dots);
    if (out.dot != nullptr && r + 1 < valid) out.dot[r + 1] += _mm512_reduce_add_ps(second_dots);
  }
  finish_block<N>(tile, rows, out, square, sum);
}

/// All blocks of a tile: row(r, c) gives what gives the parts of row r from column c on.
template <bool Exact, class T, class Row>
inline void walk_hidden(const HiddenTile& tile, const HiddenOut<T>& out, const Row& row) {
  constexpr int kVectors = 4;
  for (int64_t r = 0; r < tile.rows; r += kBlockRows<T>) {
    const int64_t rows = std::min(kBlockRows<T>, tile.rows - r), valid = tile.valid - r;
    int64_t c = 0;
    for (; c + kVectors * kLanes <= tile.width; c += kVectors * kLanes) {
      hidden_block<kVectors, Exact>(tile, rows, valid, out.at(tile, r, c), [=](int64_t i) { return row(r + i, c); });
    }
    for (; c < tile.width; c += kLanes) {
      hidden_block<1, Exact>(tile, rows, valid, out.at(tile, r, c), [=](int64_t i) { return row(r + i, c); });
    }
  }
}

/// What stands for a row's sixteen numbers in a mask: all of them, or none of a row that holds no token.
inline __mmask16 lanes_of(int64_t r, int64_t valid) { return r < valid ? 0xFFFF : 0; }

/// RowPasses::relu_backward; Scaled: by the tile's kept_scale, which is not one.
template <bool Scaled, class T>
void relu_walk(const HiddenTile& tile, const float* through, const float* scale, const T* kept, int64_t ld_kept,
               const HiddenOut<T>& out) {
  const __m512 kept_scale = _mm512_set1_ps(tile.kept_scale);
  const int64_t width = tile.width, valid = tile.valid, ahead = tile.ahead;
  const auto row = [=](int64_t r, int64_t c) {
    const float* const through_row = through + r * width + c;
    const T* const kept_row = kept + r * ld_kept + c;
    const __mmask16 lanes = lanes_of(r, valid);
    const __m512 weight = _mm512_set1_ps(r < valid ? scale[r] : 0.0f);
    return [=](int v, __m512& dots) {  // NOLINT(clang-analyzer-optin.performance.Padding): it is never in memory
      const T* const from = kept_row + v * kLanes;
      prefetch_later(from + ahead, v);
      const __m512 t = _mm512_maskz_loadu_ps(lanes, through_row + v * kLanes), hidden = load16(lanes, from);
      const __mmask16 positive = _mm512_cmp_ps_mask(hidden, _mm512_setzero_ps(), _CMP_NLE_UQ);
      HiddenPart part{_mm512_maskz_mov_ps(positive, hidden), _mm512_maskz_mul_ps(positive, t, weight)};
      if constexpr (Scaled) {
        part.after = from_stored(kept, to_stored(kept, _mm512_mul_ps(part.after, kept_scale)));
        part.before = _mm512_mul_ps(part.before, kept_scale);
      }
      dots = _mm512_fmadd_ps(t, part.after, dots);
      return part;
    };
  };
  walk_hidden<true>(tile, out, row);
}

/// RowPasses::finish_backward.
template <class T>
void finish_walk(const HiddenTile& tile, const float* through, const float* after_in, const float* before_in,
                 const HiddenOut<T>& out) {
  const int64_t width = tile.width, valid = tile.valid;
  const auto row = [=](int64_t r, int64_t c) {
    const int64_t at = r * width + c;
    const __mmask16 lanes = lanes_of(r, valid);
    return [=](int v, __m512& dots) {
      const auto load = [=](const float* p) { return _mm512_maskz_loadu_ps(lanes, p + at + v * kLanes); };
      const HiddenPart part{load(after_in), load(before_in)};
      dots = _mm512_fmadd_ps(load(through), part.after, dots);
      return part;
    };
  };
  walk_hidden<false>(tile, out, row);
}

}  // namespace
}  // namespace smoe
