// Vectors of sixteen numbers, fp32 or bf16, as the passes for AVX-512 load, round, transpose and store them.
#pragma once

#include <immintrin.h>

#include "smoe/kernels/row_numbers.h"

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
/// Zeros in lanes that are not read.
inline __m512 load16(__mmask16 lanes, const float* p) { return _mm512_maskz_loadu_ps(lanes, p); }
inline __m512 load16(__mmask16 lanes, const Bf16* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, p)), 16));
}

/// What stands for sixteen numbers until they are stored as T: the numbers, or their bf16 bits. Both can be transposed.
inline __m512 to_stored(const float*, __m512 value) { return value; }
inline __m512 to_stored(const Bf16*, __m512 value) { return _mm512_castsi512_ps(round_bits(value)); }
inline void store16(float* p, __mmask16 lanes, __m512 stored) { _mm512_mask_storeu_ps(p, lanes, stored); }
inline void store16(Bf16* p, __mmask16 lanes, __m512 stored) {
  _mm256_mask_storeu_epi16(p, lanes, _mm512_cvtepi32_epi16(_mm512_castps_si512(stored)));
}

/// The low halves of the lanes.
inline void store_low16(Bf16* p, __m512i bits) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(bits));
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

/// Whether all rows of `kept` can be written by stream16; and sixteen or fewer numbers of one, so where they can.
template <class T>
bool can_stream(const T* kept, int64_t ld) {
  return (reinterpret_cast<uintptr_t>(kept) | static_cast<size_t>(ld) * sizeof(T)) % (kLanes * sizeof(T)) == 0;
}
template <class T>
inline void keep16(T* p, bool streams, __mmask16 lanes, __m512 stored) {
  streams&& lanes == 0xFFFF ? stream16(p, stored) : store16(p, lanes, stored);
}

/// What a later call reads, which the processor does not foresee: rows are far apart. Once for each line of vectors v.
template <class T>
inline void prefetch_later(const T* p, int v) {
  if (v * kLanes * sizeof(T) % 64 == 0) _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
}

/// Of two rows, what a bf16 operand has of them side by side: in each lane's low half the first one's bits.
inline __m512i joined(__m512i first, __m512i second) { return _mm512_mask_blend_epi16(0xAAAAAAAA, first, second); }

/// That of numbers which bf16 has, and of any, rounded as round_bits does: NaN, which is rare, apart.
inline __m512i exact_pair(__m512 first, __m512 second) {
  return joined(_mm512_srli_epi32(_mm512_castps_si512(first), 16), _mm512_castps_si512(second));
}
inline __m512i rounded_pair(__m512 first, __m512 second) {
  if (_mm512_cmp_ps_mask(first, second, _CMP_UNORD_Q) != 0) [[unlikely]] {
    return joined(round_bits(first), _mm512_slli_epi32(round_bits(second), 16));
  }
  const auto up = [](__m512 value) {
    const __m512i bits = _mm512_castps_si512(value), sum = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF));
    const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
    return _mm512_mask_add_epi32(sum, odd, sum, _mm512_set1_epi32(1));
  };
  return joined(_mm512_srli_epi32(up(first), 16), up(second));
}

/// Rows i of the square as rows r + i of a second operand at column c; Stream: past the caches, which `out` must be aligned
/// to a line for.
template <bool Stream = false>
inline void store_operand16(const __m512 (&row)[16], int64_t count, float* out, int64_t ld) {
  for (int64_t i = 0; i < count; ++i) {
    Stream ? _mm512_stream_ps(out + i * ld, row[i]) : _mm512_storeu_ps(out + i * ld, row[i]);
  }
}
template <bool Stream = false>
inline void store_operand16(const __m512 (&row)[16], int64_t count, Bf16* out, int64_t ld) {
  for (int64_t i = 0; i < count; i += 2) {
    const __m512i high = _mm512_slli_epi32(_mm512_castps_si512(row[i + 1]), 16);
    const __m512i pair = _mm512_or_si512(_mm512_castps_si512(row[i]), high);
    auto* const to = reinterpret_cast<__m512i*>(out + i * ld);
    Stream ? _mm512_stream_si512(to, pair) : _mm512_storeu_si512(to, pair);
  }
}

inline __mmask16 first_lanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }

/// The square's first rows, transposed, as that many columns of the rows of `out`, sixteen of them.
inline void store_transposed16(__m512 (&square)[16], int64_t rows, void* out, int64_t row_bytes) {
  for (int64_t i = rows; i < kLanes; ++i) square[i] = _mm512_setzero_ps();
  transpose(square);
  for (int64_t l = 0; l < kLanes; ++l) {
    _mm512_mask_storeu_ps(static_cast<char*>(out) + l * row_bytes, first_lanes(rows), square[l]);
  }
}

inline void add_to(float* sum, __m512 more) { _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_loadu_ps(sum), more)); }

}  // namespace
}  // namespace smoe
