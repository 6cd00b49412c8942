// What tests of the passes around the products are written with: every instruction set that this processor has, and numbers.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "smoe/kernels/instruction_sets.h"
#include "smoe/kernels/row_passes_levels.h"

namespace smoe::testing {

inline std::vector<RowPassesLevel> levels() {
  std::vector<RowPassesLevel> out = {row_passes_baseline()};
#if defined(__x86_64__)
  if (has_avx2()) out.push_back(row_passes_avx2());
  if (has_avx512()) out.push_back(row_passes_avx512());
#endif
  return out;
}

inline const RowPasses<float>& passes_of(const RowPassesLevel& level, float) { return level.fp32; }
inline const RowPasses<Bf16>& passes_of(const RowPassesLevel& level, Bf16) { return level.bf16; }

inline float as_float(float x) { return x; }
inline float as_float(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// The nearest number of the type, of two that are as near the even one.
template <class T>
T rounded_to(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    if (std::isnan(x)) return {0x7FC0};
    uint32_t bits = 0;
    std::memcpy(&bits, &x, sizeof bits);
    const uint32_t low = bits & 0xFFFFu, high = bits >> 16;
    return {static_cast<uint16_t>(high + (low > 0x8000u || (low == 0x8000u && high % 2 == 1) ? 1 : 0))};
  }
}

/// Sizes and numbers for a test, NaN and infinities among these.
class Draw {
 public:
  int64_t size(int64_t least, int64_t most) { return std::uniform_int_distribution<int64_t>(least, most)(random_); }
  /// Every other time a whole number of vectors.
  int64_t width(int64_t most) { return size(0, 1) == 0 ? size(1, most) : 16 * size(1, most / 16); }
  template <class T>
  std::vector<T> numbers(int64_t count) {
    std::vector<T> out;
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count; ++i) {
      const auto kind = static_cast<size_t>(size(0, 400));
      out.push_back(rounded_to<T>(kind < std::size(kOdd) ? kOdd[kind] : normal(random_)));
    }
    return out;
  }

 private:
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();
  static constexpr float kOdd[] = {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity};
  std::mt19937 random_{7};
};

/// Equal, or both NaN.
template <class T>
::testing::AssertionResult same(T got, float want) {
  const float a = as_float(got), b = as_float(rounded_to<T>(want));
  if (a == b || (std::isnan(a) && std::isnan(b))) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << a << " where " << b << " should be";
}

template <class T>
class RowPassesOf : public ::testing::Test {
 protected:
  static constexpr bool kPairs = std::is_same_v<T, Bf16>;
  /// Where element (k, n) of a second operand with rows of `ld` stands.
  static int64_t place(int64_t k, int64_t n, int64_t ld) {
    return kPairs ? k / 2 * 2 * ld + 2 * n + k % 2 : k * ld + n;
  }

  Draw draw_;
};
using PassTypes = ::testing::Types<float, Bf16>;

}  // namespace smoe::testing
