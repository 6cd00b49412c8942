// What each file that compiles the passes offers to the one that chooses.
#pragma once

#include "smoe/kernels/row_passes.h"

namespace smoe {

struct RowPassesLevel {
  const char* name;
  RowPasses<float> fp32;
  RowPasses<Bf16> bf16;
};

RowPassesLevel row_passes_baseline();  // row_passes.cpp
RowPassesLevel row_passes_avx2();      // row_passes_avx2.cpp
RowPassesLevel row_passes_avx512();    // row_passes_avx512.cpp

}  // namespace smoe
