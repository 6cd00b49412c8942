// What the passes are written with: squares of sixteen by sixteen, operands.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "smoe/kernels/row_numbers.h"

namespace smoe {
namespace {

/// relu of NaN is NaN.
inline float relu(float x) { return x <= 0 ? 0.0f : x; }

/// bf16 rows go on to an even width, against zeros of the other operand, and must be numbers there.
inline void clear_padding(const HiddenTile&, float*) {}
inline void clear_padding(const HiddenTile& tile, Bf16* row) {
  if (tile.width % 2 != 0) row[tile.width].bits = 0;
}

/// A block of sixteen rows of sixteen numbers.
struct Square {
  alignas(64) float at[kLanes][kLanes];
};

/// Defined by the file that includes this one.
void transpose16(Square& square);

/// Rows [r, r + 16) of a second operand whose columns [c, c + lanes) are in `square`; `out` points to the operand's first
/// row, rows are `ld` wide.
inline void store_operand(const Square& square, int64_t r, int64_t c, int64_t lanes, int64_t rows, float* out,
                          int64_t ld) {
  const int64_t count = std::min(kLanes, rows - r);
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(out + (r + i) * ld + c, square.at[i], static_cast<size_t>(lanes) * sizeof(float));
  }
}
inline void store_operand(const Square& square, int64_t r, int64_t c, int64_t lanes, int64_t rows, Bf16* out,
                          int64_t ld) {
  const int64_t count = std::min(kLanes, rows - r);
  for (int64_t i = 0; i < count; i += 2) {
    uint32_t pair[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) {
      pair[l] = round_to_bf16(square.at[i][l]) | (round_to_bf16(square.at[i + 1][l]) << 16);
    }
    std::memcpy(out + (r + i) * ld + 2 * c, pair, static_cast<size_t>(lanes) * sizeof(uint32_t));
  }
}

/// Stores the square, already transposed, at rows [c, c + lanes) and columns [r, …) of out [·, rows].
template <class T>
void store_transposed(const Square& square, int64_t r, int64_t c, int64_t lanes, int64_t rows, T* out) {
  const int64_t count = std::min(kLanes, rows - r);
  for (int64_t l = 0; l < lanes; ++l) {
    T* to = out + (c + l) * rows + r;
    if (count == kLanes) {
      for (int64_t i = 0; i < kLanes; ++i) store(to + i, square.at[l][i]);
    } else {
      for (int64_t i = 0; i < count; ++i) store(to + i, square.at[l][i]);
    }
  }
}

}  // namespace
}  // namespace smoe
