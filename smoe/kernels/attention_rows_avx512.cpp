// The passes for processors with AVX-512 (F, BW, DQ, VL), written by hand: each goes through a row once or twice, and rounds
// as it stores.
#include <algorithm>
#include <limits>

#include "smoe/kernels/attention_rows.h"
#include "smoe/kernels/gate_functions_avx512.h"
#include "smoe/kernels/row_vectors_avx512.h"

namespace smoe {
namespace {

/// Calls step(first number, lanes) for all of [count], sixteen at a time.
template <class Step>
inline void by_sixteen(int64_t count, const Step& step) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) step(i, static_cast<__mmask16>(0xFFFF));
  if (i < count) step(i, first_lanes(count - i));
}

inline __m512 scores(__mmask16 lanes, const float* content, const float* relative, __m512 scale) {
  return _mm512_mul_ps(_mm512_add_ps(load16(lanes, content), load16(lanes, relative)), scale);
}

template <class T>
RowExponentials exponentials(float* content, const float* relative, const float* mask, int64_t count, float scale,
                             T* out) {
  const __m512 scales = fill16(scale);
  __m512 largest = fill16(-std::numeric_limits<float>::infinity());
  by_sixteen(count, [&](int64_t i, __mmask16 lanes) {
    const __m512 s = scores(lanes, content + i, relative + i, scales);
    _mm512_mask_storeu_ps(content + i, lanes, s);
    largest = _mm512_mask_max_ps(largest, lanes, s, largest);
  });
  const float top = _mm512_reduce_max_ps(largest);
  const __m512 tops = fill16(top);
  __m512 sum = _mm512_setzero_ps();
  const auto second_pass = [&](const auto& masked) {
    by_sixteen(count, [&](int64_t i, __mmask16 lanes) {
      const __m512 e = exp16(_mm512_sub_ps(load16(lanes, content + i), tops));
      sum = _mm512_mask_add_ps(sum, lanes, sum, e);
      store16(out + i, lanes, to_stored(out, masked(i, lanes, e)));
    });
  };
  if (mask == nullptr) {
    second_pass([](int64_t, __mmask16, __m512 e) { return e; });
  } else {
    second_pass([&](int64_t i, __mmask16 lanes, __m512 e) { return _mm512_mul_ps(e, load16(lanes, mask + i)); });
  }
  return {top, _mm512_reduce_add_ps(sum)};
}

void backward(float* content, const float* relative, float* gradient, const float* mask, int64_t count, float scale,
              float log_sum, float delta) {
  const __m512 scales = fill16(scale), log_sums = fill16(log_sum), deltas = fill16(delta);
  const auto pass = [&](const auto& masked) {
    by_sixteen(count, [&](int64_t i, __mmask16 lanes) {
      const __m512 p = exp16(_mm512_sub_ps(scores(lanes, content + i, relative + i, scales), log_sums));
      const __m512 of_p = _mm512_sub_ps(masked(i, lanes, load16(lanes, gradient + i)), deltas);
      _mm512_mask_storeu_ps(content + i, lanes, masked(i, lanes, p));
      _mm512_mask_storeu_ps(gradient + i, lanes, _mm512_mul_ps(scales, _mm512_mul_ps(p, of_p)));
    });
  };
  if (mask == nullptr) {
    pass([](int64_t, __mmask16, __m512 x) { return x; });
  } else {
    pass([&](int64_t i, __mmask16 lanes, __m512 x) { return _mm512_mul_ps(x, load16(lanes, mask + i)); });
  }
}

/// Columns [c, c + 16) of a row.
inline __m512 columns16(const RowPart& row, int64_t c) {
  const auto within = [&](int64_t column) { return std::clamp<int64_t>(column - c, 0, kLanes); };
  const int64_t begin = within(row.first), end = within(row.first + row.count);
  const auto lanes = static_cast<__mmask16>(first_lanes(end) & ~first_lanes(begin));
  return lanes == 0 ? _mm512_setzero_ps() : load16(lanes, row.data + (c - row.first));
}

void put_pair(const RowPart& even, const RowPart& odd, int64_t width, Bf16* first, int64_t ld, Bf16* second) {
  const auto put = [&](int64_t c, __m512 of_even, __m512 of_odd) {
    const __m512i pair = rounded_pair(of_even, of_odd);
    _mm512_storeu_si512(second + 2 * c, pair);
    if (first == nullptr) return;
    store_low16(first + c, pair);
    store_low16(first + ld + c, _mm512_srli_epi32(pair, 16));
  };
  // Both rows have all columns from `begin` to `end`.
  const int64_t begin = std::max(even.first, odd.first), end = std::min(even.first + even.count, odd.first + odd.count);
  for (int64_t c = 0; c < width; c += kLanes) {
    if (c >= begin && c + kLanes <= end) {
      put(c, load16(even.data + (c - even.first)), load16(odd.data + (c - odd.first)));
    } else {
      put(c, columns16(even, c), columns16(odd, c));
    }
  }
}

template <class T>
void put_scaled(const float* in, float scale, int64_t count, T* out) {
  const __m512 scales = fill16(scale);
  by_sixteen(count, [&](int64_t i, __mmask16 lanes) {
    store16(out + i, lanes, to_stored(out, _mm512_mul_ps(scales, load16(lanes, in + i))));
  });
}

template <class T>
float dot(const T* a, const T* b, int64_t count) {
  __m512 sum = _mm512_setzero_ps();
  by_sixteen(count, [&](int64_t i, __mmask16 lanes) {
    sum = _mm512_fmadd_ps(load16(lanes, a + i), load16(lanes, b + i), sum);
  });
  return _mm512_reduce_add_ps(sum);
}

/// Of so many rows.
template <int64_t Count, class T>
inline void dots_of(const RowsApart<T>& rows, int64_t r, const float* query, float* out) {
  __m512 sum[Count];
  for (__m512& each : sum) each = _mm512_setzero_ps();
  by_sixteen(rows.width, [&](int64_t i, __mmask16 lanes) {
    const __m512 q = load16(lanes, query + i);
    for (int64_t j = 0; j < Count; ++j) {
      sum[j] = _mm512_fmadd_ps(q, load16(lanes, rows.first + (r + j) * rows.stride + i), sum[j]);
    }
  });
  for (int64_t j = 0; j < Count; ++j) out[r + j] = _mm512_reduce_add_ps(sum[j]);
}

template <class T>
void dots(const RowsApart<T>& rows, const float* query, float* out) {
  constexpr int64_t kTogether = 8;
  int64_t r = 0;
  for (; r + kTogether <= rows.count; r += kTogether) dots_of<kTogether>(rows, r, query, out);
  for (; r < rows.count; ++r) dots_of<1>(rows, r, query, out);
}

template <class T>
void add_rows(const RowsApart<T>& rows, const float* weight, float* out) {
  constexpr int64_t kSums = 4;  // one after the other would wait for each other
  by_sixteen(rows.width, [&](int64_t i, __mmask16 lanes) {
    __m512 sum[kSums] = {load16(lanes, out + i)};
    for (int64_t j = 1; j < kSums; ++j) sum[j] = _mm512_setzero_ps();
    const T* row = rows.first + i;
    int64_t r = 0;
    for (; r + kSums <= rows.count; r += kSums) {
      for (int64_t j = 0; j < kSums; ++j, row += rows.stride) {
        sum[j] = _mm512_fmadd_ps(fill16(weight[r + j]), load16(lanes, row), sum[j]);
      }
    }
    for (; r < rows.count; ++r, row += rows.stride) {
      sum[0] = _mm512_fmadd_ps(fill16(weight[r]), load16(lanes, row), sum[0]);
    }
    const __m512 all = _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3]));
    _mm512_mask_storeu_ps(out + i, lanes, all);
  });
}

}  // namespace

AttentionRowsLevel attention_rows_avx512() {
  return {.fp32 = {exponentials<float>, backward, nullptr, put_scaled<float>, dot<float>, dots<float>, add_rows<float>},
          .bf16 = {exponentials<Bf16>, backward, put_pair, put_scaled<Bf16>, dot<Bf16>, dots<Bf16>, add_rows<Bf16>}};
}

}  // namespace smoe
