// The passes for processors with AVX-512 (F, BW, DQ, VL). The ones that a step spends time in are written by hand, with a
// square of sixteen rows and columns in the registers; they take widths that are multiples of sixteen, any number of rows.
#include <immintrin.h>

#include "smoe/kernels/row_passes_body.h"
#include "smoe/kernels/row_passes_levels.h"

namespace smoe {
namespace {

/// In four rounds: each swaps the off-diagonal halves of squares half as large, first between lanes of 128 bits.
inline void transpose(__m512 (&r)[16]) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  const auto lo = [&](int a, int b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[a]), _mm512_castps_pd(t[b])));
  };
  const auto hi = [&](int a, int b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[a]), _mm512_castps_pd(t[b])));
  };
  for (int i = 0; i < 16; i += 4) {
    r[i] = lo(i, i + 2);
    r[i + 1] = hi(i, i + 2);
    r[i + 2] = lo(i + 1, i + 3);
    r[i + 3] = hi(i + 1, i + 3);
  }
  // Now r[4 g + j] holds, in its lane q, the rows 4 g … 4 g + 3 of column 4 q + j.
  for (int j = 0; j < 4; ++j) {
    t[j] = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x88);      // lanes 0 and 2 of both
    t[4 + j] = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xDD);  // lanes 1 and 3
    t[8 + j] = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x88);
    t[12 + j] = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xDD);
  }
  for (int j = 0; j < 4; ++j) {
    r[j] = _mm512_shuffle_f32x4(t[j], t[8 + j], 0x88);
    r[8 + j] = _mm512_shuffle_f32x4(t[j], t[8 + j], 0xDD);
    r[4 + j] = _mm512_shuffle_f32x4(t[4 + j], t[12 + j], 0x88);
    r[12 + j] = _mm512_shuffle_f32x4(t[4 + j], t[12 + j], 0xDD);
  }
}

void transpose16(Square& square) {
  __m512 r[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_load_ps(square.at[i]);
  transpose(r);
  for (int i = 0; i < 16; ++i) _mm512_store_ps(square.at[i], r[i]);
}

/// round_to_bf16 of sixteen numbers, in the low halves.
inline __m512i round_bits(__m512 value) {
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  return _mm512_mask_mov_epi32(_mm512_srli_epi32(sum, 16), nan, _mm512_set1_epi32(0x7FC0));
}

inline __m512 load16(const float* p) { return _mm512_loadu_ps(p); }
inline __m512i load_bits(const Bf16* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline __m512 load16(const Bf16* p) { return _mm512_castsi512_ps(_mm512_slli_epi32(load_bits(p), 16)); }

/// What stands for sixteen numbers until they are stored as T: the numbers, or their bf16 bits. Both can be transposed.
inline __m512 to_stored(const float*, __m512 value) { return value; }
inline __m512 to_stored(const Bf16*, __m512 value) { return _mm512_castsi512_ps(round_bits(value)); }
inline void store16(float* p, __mmask16 lanes, __m512 stored) { _mm512_mask_storeu_ps(p, lanes, stored); }
inline void store16(Bf16* p, __mmask16 lanes, __m512 stored) {
  _mm256_mask_storeu_epi16(p, lanes, _mm512_cvtepi32_epi16(_mm512_castps_si512(stored)));
}

inline __m512 from_stored(const float*, __m512 stored) { return stored; }
inline __m512 from_stored(const Bf16*, __m512 stored) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(stored), 16));
}

/// Where column c of an operand's even row stands: pairs of bf16 rows are side by side.
inline int64_t operand_offset(const float*, int64_t c) { return c; }
inline int64_t operand_offset(const Bf16*, int64_t c) { return 2 * c; }

/// Whole lines past the caches, which are not read before they are written, for what only the backward pass will read. `p`
/// must be aligned to what is stored.
inline void stream16(float* p, __m512 stored) { _mm512_stream_ps(p, stored); }
inline void stream16(Bf16* p, __m512 stored) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_castps_si512(stored)));
}

/// Rows i of the square as rows r + i of a second operand at column c.
inline void store_operand16(const __m512 (&row)[16], int64_t count, float* out, int64_t ld) {
  for (int64_t i = 0; i < count; ++i) _mm512_storeu_ps(out + i * ld, row[i]);
}
inline void store_operand16(const __m512 (&row)[16], int64_t count, Bf16* out, int64_t ld) {
  for (int64_t i = 0; i < count; i += 2) {
    const __m512i high = _mm512_slli_epi32(_mm512_castps_si512(row[i + 1]), 16);
    _mm512_storeu_si512(out + i * ld, _mm512_or_si512(_mm512_castps_si512(row[i]), high));
  }
}

inline __mmask16 first_lanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }

inline void add_columns(const __m512 (&row)[16], float* column_sum) {
  __m512 sum = _mm512_setzero_ps();
  for (const __m512& each : row) sum = _mm512_add_ps(sum, each);
  _mm512_storeu_ps(column_sum, _mm512_add_ps(_mm512_loadu_ps(column_sum), sum));
}

template <class T>
void gather_transposed_512(const T* x, int64_t width, const int32_t* token, const float* scale, int64_t valid,
                           int64_t rows, T* transposed, T* operand, float* column_sum) {
  if (width % kLanes != 0) {
    return gather_transposed(x, width, token, scale, valid, rows, transposed, operand, column_sum);
  }
  for (int64_t r = 0; r < rows; r += kLanes) {
    const int64_t kept = std::min(kLanes, rows - r), count = std::clamp<int64_t>(valid - r, 0, kLanes);
    for (int64_t c = 0; c < width; c += kLanes) {
      __m512 row[16];
      for (int64_t i = 0; i < kLanes; ++i) {
        // The same columns of the next rows, which the processor does not foresee: tokens are far apart.
        if (r + kLanes + i < valid) {
          _mm_prefetch(reinterpret_cast<const char*>(x + token[r + kLanes + i] * width + c), _MM_HINT_T0);
        }
        row[i] = i < count ? load16(x + token[r + i] * width + c) : _mm512_setzero_ps();
        if (scale != nullptr && i < count) row[i] = _mm512_mul_ps(row[i], _mm512_set1_ps(scale[r + i]));
      }
      if (column_sum != nullptr) add_columns(row, column_sum + c);
      for (__m512& each : row) each = to_stored(x, each);
      if (operand != nullptr) {
        store_operand16(row, kept, operand + c / kBlock * kBlock * rows + r * kBlock + operand_offset(x, c % kBlock),
                        kBlock);
      }
      if (transposed == nullptr) continue;
      transpose(row);
      for (int64_t l = 0; l < kLanes; ++l) store16(transposed + (c + l) * rows + r, first_lanes(kept), row[l]);
    }
  }
}

template <class T>
void bias_relu_512(const HiddenTile& given, const float* sum, const float* bias, T* kept, int64_t ld_kept, T* out) {
  const HiddenTile tile = given;  // a copy, which no store can change
  if (tile.width % kLanes != 0) return bias_relu(tile, sum, bias, kept, ld_kept, out);
  const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0f);
  const size_t step = kLanes * sizeof(T);
  const bool aligned = (reinterpret_cast<uintptr_t>(kept) | static_cast<size_t>(ld_kept) * sizeof(T)) % step == 0;
  for (int64_t r = 0; r < tile.valid; ++r) {
    for (int64_t h = 0; h < tile.width; h += kLanes) {
      __m512 pre = _mm512_loadu_ps(sum + r * tile.width + h);
      if (bias != nullptr) pre = _mm512_add_ps(pre, _mm512_loadu_ps(bias + h));
      const __m512 rounded_sum = to_stored(out, pre);
      __m512 stored = rounded_sum, keep = rounded_sum;
      if (tile.mask != nullptr) {
        const __m512 mask = _mm512_loadu_ps(tile.mask + r * tile.width + h), value = from_stored(out, rounded_sum);
        const __mmask16 drops = _mm512_cmp_ps_mask(mask, zero, _CMP_EQ_OQ);
        stored = to_stored(out, _mm512_mul_ps(value, mask));
        keep = _mm512_mask_mov_ps(keep, drops, to_stored(out, _mm512_sub_ps(_mm512_mul_ps(value, zero), one)));
      }
      if (kept != nullptr && aligned) {
        stream16(kept + r * ld_kept + h, keep);
      } else if (kept != nullptr) {
        store16(kept + r * ld_kept + h, 0xFFFF, keep);
      }
      // Not "at most zero" rather than "above zero", so that NaN stays; what is zeroed is the sum, or its rounded bits.
      const __mmask16 positive = _mm512_cmp_ps_mask(pre, zero, _CMP_NLE_UQ);
      store16(out + r * tile.ld + h, 0xFFFF, _mm512_maskz_mov_ps(positive, stored));
    }
  }
  _mm_sfence();  // streamed lines are seen by other threads only after it
}

/// The common walk of the two backward passes: fill(r, c, through) gives sixteen numbers of a row after and before the
/// activation.
template <class T, class Fill>
inline void walk_backward_512(const HiddenTile& tile, const float* through, T* after, T* before, T* transposed,
                              float* dot, float* column_sum, const Fill& fill) {
  const T* const type = nullptr;
  for (int64_t r = 0; r < tile.rows; r += kLanes) {
    const int64_t rows = std::min(kLanes, tile.rows - r), count = std::clamp<int64_t>(tile.valid - r, 0, kLanes);
    alignas(64) float dots[kLanes][kLanes] = {};
    for (int64_t c = 0; c < tile.width; c += kLanes) {
      __m512 a[16], b[16];
      for (int64_t i = 0; i < kLanes; ++i) {
        a[i] = b[i] = _mm512_setzero_ps();
        if (i >= count) continue;
        const __m512 t = _mm512_loadu_ps(through + (r + i) * tile.width + c);
        fill(r + i, c, t, a[i], b[i]);
        _mm512_store_ps(dots[i], _mm512_fmadd_ps(t, a[i], _mm512_load_ps(dots[i])));
      }
      if (after != nullptr) {
        for (__m512& each : a) each = to_stored(type, each);
        store_operand16(a, rows, after + r * tile.ld + operand_offset(type, c), tile.ld);
      }
      if (column_sum != nullptr) add_columns(b, column_sum + c);
      for (__m512& each : b) each = to_stored(type, each);
      for (int64_t i = 0; i < rows; ++i) store16(before + (r + i) * tile.ld + c, 0xFFFF, b[i]);
      if (transposed == nullptr) continue;
      transpose(b);
      for (int64_t l = 0; l < kLanes; ++l) store16(transposed + (c + l) * tile.rows + r, first_lanes(rows), b[l]);
    }
    for (int64_t i = 0; dot != nullptr && i < count; ++i) dot[r + i] += _mm512_reduce_add_ps(_mm512_load_ps(dots[i]));
  }
}

template <class T>
void relu_backward_512(const HiddenTile& given, const float* through, const float* scale, const T* kept,
                       int64_t ld_kept, T* after, T* before, T* transposed, float* dot, float* column_sum) {
  const HiddenTile tile = given;  // a copy, which no store can change
  if (tile.width % kLanes != 0) {
    return relu_backward(tile, through, scale, kept, ld_kept, after, before, transposed, dot, column_sum);
  }
  const __m512 kept_scale = _mm512_set1_ps(tile.kept_scale);
  const auto fill = [=](int64_t r, int64_t c, __m512 t, __m512& a, __m512& b) {
    const T* from = kept + r * ld_kept + c;
    // The same columns of the next slice, which the processor does not foresee: rows are far apart.
    _mm_prefetch(reinterpret_cast<const char*>(from + tile.width), _MM_HINT_T1);
    const __m512 hidden = load16(from);
    const __mmask16 positive = _mm512_cmp_ps_mask(hidden, _mm512_setzero_ps(), _CMP_NLE_UQ);
    a = _mm512_maskz_mul_ps(positive, hidden, kept_scale);
    b = _mm512_maskz_mul_ps(positive, _mm512_mul_ps(t, _mm512_set1_ps(scale[r])), kept_scale);
  };
  walk_backward_512(tile, through, after, before, transposed, dot, column_sum, fill);
}

template <class T>
void finish_backward_512(const HiddenTile& given, const float* through, const float* after_in, const float* before_in,
                         T* after, T* before, T* transposed, float* dot, float* column_sum) {
  const HiddenTile tile = given;
  if (tile.width % kLanes != 0) {
    return finish_backward(tile, through, after_in, before_in, after, before, transposed, dot, column_sum);
  }
  const auto fill = [=](int64_t r, int64_t c, __m512, __m512& a, __m512& b) {
    a = _mm512_loadu_ps(after_in + r * tile.width + c);
    b = _mm512_loadu_ps(before_in + r * tile.width + c);
  };
  walk_backward_512(tile, through, after, before, transposed, dot, column_sum, fill);
}

/// Four vectors at a time, so that their sums do not wait for each other.
template <class T>
void sum_rows_512(const float* const* rows, int64_t count, int64_t width, T* out) {
  constexpr int64_t kVectors = 4;
  int64_t c = 0;
  for (; c + kVectors * kLanes <= width; c += kVectors * kLanes) {
    __m512 sum[kVectors];
    for (__m512& each : sum) each = _mm512_setzero_ps();
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t v = 0; v < kVectors; ++v) sum[v] = _mm512_add_ps(sum[v], _mm512_loadu_ps(rows[i] + c + v * kLanes));
    }
    for (int64_t v = 0; v < kVectors; ++v) store16(out + c + v * kLanes, 0xFFFF, to_stored(out, sum[v]));
  }
  for (; c < width; c += kLanes) {
    const __mmask16 lanes = first_lanes(std::min(kLanes, width - c));
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < count; ++i) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, rows[i] + c));
    store16(out + c, lanes, to_stored(out, sum));
  }
}

/// A whole number of squares, of a matrix whose rows or columns stand in one piece.
template <class T, class In>
void pack_512(const In* in, int64_t K, int64_t N, int64_t stride_k, int64_t stride_n, T* out) {
  for (int64_t n = 0; n < N; n += kLanes) {
    T* block = out + n / kBlock * kBlock * K + operand_offset(out, n % kBlock);
    for (int64_t k = 0; k < K; k += kLanes) {
      const In* from = in + k * stride_k + n * stride_n;
      __m512 row[16];
      for (int64_t i = 0; i < kLanes; ++i) {
        row[i] = to_stored(out, load16(from + i * (stride_n == 1 ? stride_k : stride_n)));
      }
      if (stride_n != 1) transpose(row);
      store_operand16(row, kLanes, block + k * kBlock, kBlock);
    }
  }
}

template <class T>
void pack_512(const void* in, bool in_is_t, int64_t K, int64_t N, int64_t stride_k, int64_t stride_n, T* out) {
  if (K % kLanes != 0 || N % kLanes != 0 || (stride_k != 1 && stride_n != 1)) {
    return pack(in, in_is_t, K, N, stride_k, stride_n, out);
  }
  if (in_is_t) return pack_512(static_cast<const T*>(in), K, N, stride_k, stride_n, out);
  return pack_512(static_cast<const float*>(in), K, N, stride_k, stride_n, out);
}

template <class T>
RowPasses<T> passes_512() {
  RowPasses<T> passes = make_row_passes<T>();
  passes.gather_transposed = gather_transposed_512<T>;
  passes.bias_relu = bias_relu_512<T>;
  passes.relu_backward = relu_backward_512<T>;
  passes.finish_backward = finish_backward_512<T>;
  passes.sum_rows = sum_rows_512<T>;
  passes.pack = pack_512<T>;
  return passes;
}

}  // namespace

RowPassesLevel row_passes_avx512() { return {"avx512", passes_512<float>(), passes_512<Bf16>()}; }

}  // namespace smoe
