// What each file that compiles fill_dropout offers to the one that chooses.
#pragma once

#include <cstddef>
#include <cstdint>

namespace smoe {

/// A mask as the loops want it: words up to last_dropped drop their element.
struct DropoutWords {
  uint64_t key, high;
  uint32_t last_dropped;
  float scale;
};

using FillDropoutWords = void (*)(const DropoutWords& words, uint64_t first_block, int64_t count, float* out);

FillDropoutWords fill_dropout_baseline();  // dropout_rows.cpp
FillDropoutWords fill_dropout_avx2();      // dropout_rows_avx2.cpp
FillDropoutWords fill_dropout_avx512();    // dropout_rows_avx512.cpp

}  // namespace smoe
