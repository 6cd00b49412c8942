// The text of the passes, included once by each file that compiles it for an instruction set.
#pragma once

#include <cmath>
#include <cstring>

#include "smoe/kernels/attention_rows.h"

namespace smoe {
namespace {

// Sums and maxima run in so many lanes; a compiler makes vectors of a loop over them, and unrolls a shorter one instead.
constexpr int64_t kLanes = 32;

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

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
  const float value = y * float_of((bits_of(shifted) - bits_of(kRound) + 127u) << 23);
  return x < -86.5f ? 0.0f : value;
}

inline uint32_t round_to_bf16(float value) {
  const uint32_t bits = bits_of(value), rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return (bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded;
}

inline float largest(const float* x, int64_t count) {
  float lane[kLanes];
  for (int64_t l = 0; l < kLanes; ++l) lane[l] = x[0];
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
  }
  for (; i < count; ++i) lane[0] = x[i] > lane[0] ? x[i] : lane[0];
  float out = lane[0];
  for (const float value : lane) out = value > out ? value : out;
  return out;
}

inline float sum_of(const float* x, int64_t count) {
  float lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) lane[l] += x[i + l];
  }
  for (; i < count; ++i) lane[0] += x[i];
  float out = 0;
  for (const float value : lane) out += value;
  return out;
}

float softmax(float* __restrict content, const float* __restrict relative, int64_t count, float scale) {
  for (int64_t i = 0; i < count; ++i) content[i] = (content[i] + relative[i]) * scale;
  const float top = largest(content, count);
  for (int64_t i = 0; i < count; ++i) content[i] = exp_of(content[i] - top);
  const float sum = sum_of(content, count), share = 1.0f / sum;
  for (int64_t i = 0; i < count; ++i) content[i] *= share;
  return top + std::log(sum);
}

void multiply(float* __restrict x, const float* __restrict mask, int64_t count) {
  for (int64_t i = 0; i < count; ++i) x[i] *= mask[i];
}

void backward(float* __restrict content, float* __restrict relative, float* __restrict gradient,
              const float* __restrict mask, int64_t count, float scale, float log_sum, float delta) {
  if (mask == nullptr) {
    for (int64_t i = 0; i < count; ++i) {
      const float p = exp_of((content[i] + relative[i]) * scale - log_sum);
      const float of_score = scale * (p * (gradient[i] - delta));
      content[i] = p;
      relative[i] = of_score;
      gradient[i] = of_score;
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const float p = exp_of((content[i] + relative[i]) * scale - log_sum);
    const float of_score = scale * (p * (gradient[i] * mask[i] - delta));
    content[i] = p * mask[i];
    relative[i] = of_score;
    gradient[i] = of_score;
  }
}

void to_bf16(const float* __restrict in, int64_t count, uint16_t* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<uint16_t>(round_to_bf16(in[i]));
}

void to_bf16_pairs(const float* __restrict even, const float* __restrict odd, int64_t count, uint16_t* __restrict out) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t pair = round_to_bf16(even[i]) | (round_to_bf16(odd[i]) << 16);
    std::memcpy(out + 2 * i, &pair, sizeof pair);
  }
}

constexpr AttentionRows make_attention_rows() { return {softmax, multiply, backward, to_bf16, to_bf16_pairs}; }

}  // namespace
}  // namespace smoe
