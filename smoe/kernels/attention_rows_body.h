// The text of the passes, included once by each file that compiles it for an instruction set.
#pragma once

#include "smoe/kernels/attention_rows.h"
#include "smoe/kernels/row_numbers.h"

namespace smoe {
namespace {

// Sums and maxima run in so many lanes; a compiler makes vectors of a loop over them, and unrolls a shorter one instead.
constexpr int64_t kSumLanes = 32;

/// e^x for x up to about 0, to 2 units in the last place; 0 where that is below 2^-125; NaN stays. 2^n · e^r with |r| ≤ ln 2 / 2,
/// the polynomial of Cephes' expf.
inline float exp_of(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504f + kRound, n = shifted - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  const float value = y * bits_to_float((float_to_bits(shifted) - float_to_bits(kRound) + 127u) << 23);
  return x < -86.5f ? 0.0f : value;
}

inline float largest(const float* x, int64_t count) {
  float lane[kSumLanes];
  for (int64_t l = 0; l < kSumLanes; ++l) lane[l] = x[0];
  int64_t i = 0;
  for (; i + kSumLanes <= count; i += kSumLanes) {
    for (int64_t l = 0; l < kSumLanes; ++l) lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
  }
  for (; i < count; ++i) lane[0] = x[i] > lane[0] ? x[i] : lane[0];
  float out = lane[0];
  for (const float value : lane) out = value > out ? value : out;
  return out;
}

inline float sum_of(const float* x, int64_t count) {
  float lane[kSumLanes] = {};
  int64_t i = 0;
  for (; i + kSumLanes <= count; i += kSumLanes) {
    for (int64_t l = 0; l < kSumLanes; ++l) lane[l] += x[i + l];
  }
  for (; i < count; ++i) lane[0] += x[i];
  float out = 0;
  for (const float value : lane) out += value;
  return out;
}

template <class T>
RowExponentials exponentials(float* content, const float* __restrict relative, const float* __restrict mask,
                             int64_t count, float scale, T* out) {
  for (int64_t i = 0; i < count; ++i) content[i] = (content[i] + relative[i]) * scale;
  const float top = largest(content, count);
  for (int64_t i = 0; i < count; ++i) content[i] = exp_of(content[i] - top);
  const float sum = sum_of(content, count);
  for (int64_t i = 0; i < count; ++i) store(out + i, mask == nullptr ? content[i] : content[i] * mask[i]);
  return {top, sum};
}

void backward(float* __restrict content, const float* __restrict relative, float* __restrict gradient,
              const float* __restrict mask, int64_t count, float scale, float log_sum, float delta) {
  if (mask == nullptr) {
    for (int64_t i = 0; i < count; ++i) {
      const float p = exp_of((content[i] + relative[i]) * scale - log_sum);
      content[i] = p;
      gradient[i] = scale * (p * (gradient[i] - delta));
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const float p = exp_of((content[i] + relative[i]) * scale - log_sum);
    content[i] = p * mask[i];
    gradient[i] = scale * (p * (gradient[i] * mask[i] - delta));
  }
}

void put_pair(const RowPart& even, const RowPart& odd, int64_t width, Bf16* first, int64_t ld, Bf16* second) {
  const auto put = [&](const RowPart& row, int64_t parity) {
    const auto at = [&](int64_t c) -> Bf16& { return second[2 * c + parity]; };
    for (int64_t c = 0; c < row.first; ++c) at(c).bits = 0;
    for (int64_t i = 0; i < row.count; ++i) store(&at(row.first + i), row.data[i]);
    for (int64_t c = row.first + row.count; c < width; ++c) at(c).bits = 0;
    if (first == nullptr) return;
    for (int64_t c = 0; c < width; ++c) first[parity * ld + c] = at(c);
  };
  put(even, 0);
  put(odd, 1);
}

template <class T>
void put_scaled(const float* __restrict in, float scale, int64_t count, T* __restrict out) {
  for (int64_t i = 0; i < count; ++i) store(out + i, scale * in[i]);
}

template <class A, class B>
float dot_of(const A* a, const B* b, int64_t count) {
  float lane[kSumLanes] = {};
  int64_t i = 0;
  for (; i + kSumLanes <= count; i += kSumLanes) {
    for (int64_t l = 0; l < kSumLanes; ++l) lane[l] += load(a + i + l) * load(b + i + l);
  }
  for (; i < count; ++i) lane[0] += load(a + i) * load(b + i);
  return sum_of(lane, kSumLanes);
}

template <class T>
float dot(const T* a, const T* b, int64_t count) {
  return dot_of(a, b, count);
}

template <class T>
void dots(const RowsApart<T>& rows, const float* query, float* out) {
  for (int64_t r = 0; r < rows.count; ++r) out[r] = dot_of(rows.first + r * rows.stride, query, rows.width);
}

template <class T>
void add_rows(const RowsApart<T>& rows, const float* weight, float* __restrict out) {
  for (int64_t r = 0; r < rows.count; ++r) {
    const T* row = rows.first + r * rows.stride;
    for (int64_t i = 0; i < rows.width; ++i) out[i] += weight[r] * load(row + i);
  }
}

constexpr AttentionRowsLevel make_attention_rows_level() {
  return {.fp32 = {exponentials<float>, backward, nullptr, put_scaled<float>, dot<float>, dots<float>, add_rows<float>},
          .bf16 = {exponentials<Bf16>, backward, put_pair, put_scaled<Bf16>, dot<Bf16>, dots<Bf16>, add_rows<Bf16>}};
}

}  // namespace
}  // namespace smoe
