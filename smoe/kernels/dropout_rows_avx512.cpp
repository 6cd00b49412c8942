// Dropout's masks on processors with AVX-512 (F, BW, DQ, VL), written by hand: the products of 32 bits to 64 that Philox
// is made of are products of every second lane here, which a compiler does not find.
#include <immintrin.h>

#include <cstring>

#include "smoe/kernels/dropout_rows_levels.h"

namespace smoe {
namespace {

constexpr int64_t kWords = 64;  // sixteen blocks of four

/// The halves of a · m in each of sixteen lanes of 32 bits; m is the same in all.
inline void multiply(__m512i a, __m512i m, __m512i& high, __m512i& low) {
  const __m512i even = _mm512_mul_epu32(a, m), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), m);
  low = _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CCAA);
  high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
}

inline __m512i xor3(__m512i a, __m512i b, __m512i c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }

/// Sixteen blocks from first_block on as masks; smoe/base/philox.h is the function in its plain form. Lane 4 l + j holds
/// block 4 j + l, so that the four words of each block end up side by side after two rounds of unpacking.
inline void fill_sixteen(const DropoutWords& words, uint64_t first_block, float* out) {
  const __m512i place = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i first = _mm512_set1_epi32(static_cast<int>(first_block));
  __m512i c0 = _mm512_add_epi32(first, place);
  __m512i c1 = _mm512_set1_epi32(static_cast<int>(first_block >> 32));
  c1 = _mm512_mask_add_epi32(c1, _mm512_cmplt_epu32_mask(c0, first), c1, _mm512_set1_epi32(1));
  __m512i c2 = _mm512_set1_epi32(static_cast<int>(words.high));
  __m512i c3 = _mm512_set1_epi32(static_cast<int>(words.high >> 32));
  const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
  uint32_t k0 = static_cast<uint32_t>(words.key), k1 = static_cast<uint32_t>(words.key >> 32);
  for (int round = 0; round < 10; ++round) {
    __m512i high0, low0, high1, low1;
    multiply(c0, m0, high0, low0);
    multiply(c2, m1, high1, low1);
    c0 = xor3(high1, c1, _mm512_set1_epi32(static_cast<int>(k0)));
    c1 = low1;
    c2 = xor3(high0, c3, _mm512_set1_epi32(static_cast<int>(k1)));
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const __m512i last = _mm512_set1_epi32(static_cast<int>(words.last_dropped));
  const __m512 scale = _mm512_set1_ps(words.scale);
  const auto mask = [&](__m512i word) { return _mm512_maskz_mov_ps(_mm512_cmpgt_epu32_mask(word, last), scale); };
  const __m512 w0 = mask(c0), w1 = mask(c1), w2 = mask(c2), w3 = mask(c3);
  const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(w0, w1)),
                low23 = _mm512_castps_pd(_mm512_unpacklo_ps(w2, w3));
  const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(w0, w1)),
                high23 = _mm512_castps_pd(_mm512_unpackhi_ps(w2, w3));
  _mm512_storeu_ps(out, _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23)));
  _mm512_storeu_ps(out + 16, _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23)));
  _mm512_storeu_ps(out + 32, _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23)));
  _mm512_storeu_ps(out + 48, _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23)));
}

void fill_words_512(const DropoutWords& words, uint64_t first_block, int64_t count, float* out) {
  for (; count >= kWords; count -= kWords) {
    fill_sixteen(words, first_block, out);
    first_block += kWords / 4;
    out += kWords;
  }
  if (count == 0) return;
  float rest[kWords];
  fill_sixteen(words, first_block, rest);
  std::memcpy(out, rest, static_cast<size_t>(count) * sizeof(float));
}

}  // namespace

FillDropoutWords fill_dropout_avx512() { return fill_words_512; }

}  // namespace smoe
