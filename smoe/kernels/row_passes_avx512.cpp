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

/// A row of sixteen of relu_backward: after and before the activation, from through and kept.
template <class T>
inline void relu_backward16(const T* kept, __m512 through, float scale, __m512 kept_scale, __m512& after,
                            __m512& before) {
  const __m512 hidden = load16(kept);
  const __mmask16 positive = _mm512_cmp_ps_mask(hidden, _mm512_setzero_ps(), _CMP_NLE_UQ);
  after = _mm512_maskz_mul_ps(positive, hidden, kept_scale);
  before = _mm512_maskz_mul_ps(positive, _mm512_mul_ps(through, _mm512_set1_ps(scale)), kept_scale);
}

template <class T>
void relu_backward_512(const HiddenTile& given, const float* through, const float* scale, const T* kept,
                       int64_t ld_kept, T* after, T* before, T* transposed, float* dot, float* column_sum) {
  const HiddenTile tile = given;  // a copy, which no store can change
  if (tile.width % kLanes != 0) {
    return relu_backward(tile, through, scale, kept, ld_kept, after, before, transposed, dot, column_sum);
  }
  const __m512 kept_scale = _mm512_set1_ps(tile.kept_scale);
  for (int64_t r = 0; r < tile.rows; r += kLanes) {
    const int64_t rows = std::min(kLanes, tile.rows - r), count = std::clamp<int64_t>(tile.valid - r, 0, kLanes);
    alignas(64) float dots[kLanes][kLanes] = {};
    for (int64_t c = 0; c < tile.width; c += kLanes) {
      __m512 a[16], b[16];
      for (int64_t i = 0; i < kLanes; ++i) {
        a[i] = b[i] = _mm512_setzero_ps();
        if (i >= count) continue;
        const int64_t at = (r + i) * tile.width + c;
        const __m512 t = _mm512_loadu_ps(through + at);
        // The same columns of the next slice, which the processor does not foresee: rows are far apart.
        _mm_prefetch(reinterpret_cast<const char*>(kept + (r + i) * ld_kept + c + tile.width), _MM_HINT_T1);
        relu_backward16(kept + (r + i) * ld_kept + c, t, scale[r + i], kept_scale, a[i], b[i]);
        _mm512_store_ps(dots[i], _mm512_fmadd_ps(t, a[i], _mm512_load_ps(dots[i])));
      }
      if (after != nullptr) {
        for (__m512& each : a) each = to_stored(kept, each);
        store_operand16(a, rows, after + r * tile.ld + operand_offset(kept, c), tile.ld);
      }
      if (column_sum != nullptr) add_columns(b, column_sum + c);
      for (__m512& each : b) each = to_stored(kept, each);
      for (int64_t i = 0; i < rows; ++i) store16(before + (r + i) * tile.ld + c, 0xFFFF, b[i]);
      if (transposed == nullptr) continue;
      transpose(b);
      for (int64_t l = 0; l < kLanes; ++l) store16(transposed + (c + l) * tile.rows + r, first_lanes(rows), b[l]);
    }
    for (int64_t i = 0; dot != nullptr && i < count; ++i) dot[r + i] += _mm512_reduce_add_ps(_mm512_load_ps(dots[i]));
  }
}

template <class T>
RowPasses<T> passes_512() {
  RowPasses<T> passes = make_row_passes<T>();
  passes.gather_transposed = gather_transposed_512<T>;
  passes.bias_relu = bias_relu_512<T>;
  passes.relu_backward = relu_backward_512<T>;
  return passes;
}

}  // namespace

RowPassesLevel row_passes_avx512() { return {"avx512", passes_512<float>(), passes_512<Bf16>()}; }

}  // namespace smoe
