// Numbers of rows, fp32 or bf16: their bits, and loads and stores that convert.
#pragma once

#include <cstdint>
#include <cstring>

#include "smoe/kernels/row_passes.h"

namespace smoe {
namespace {

constexpr int64_t kLanes = 16;  // numbers that one step works on
constexpr int64_t kBlock = 64;  // columns of a block of a second operand

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// Round to nearest even; every NaN becomes the quiet one.
inline uint32_t round_to_bf16(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return (bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded;
}

inline float load(const float* p) { return *p; }
inline float load(const Bf16* p) { return bits_to_float(static_cast<uint32_t>(p->bits) << 16); }
inline void store(float* p, float value) { *p = value; }
inline void store(Bf16* p, float value) { p->bits = static_cast<uint16_t>(round_to_bf16(value)); }
/// The value after a trip through T.
inline float rounded(const float*, float value) { return value; }
inline float rounded(const Bf16*, float value) { return bits_to_float(round_to_bf16(value) << 16); }

}  // namespace
}  // namespace smoe
