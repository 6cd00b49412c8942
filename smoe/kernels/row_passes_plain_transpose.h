// The transposition of a square in plain loops, for the files that have no better one.
#pragma once

#include <utility>

#include "smoe/kernels/row_passes_body.h"

namespace smoe {
namespace {

void transpose16(Square& square) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < i; ++j) std::swap(square.at[i][j], square.at[j][i]);
  }
}

}  // namespace
}  // namespace smoe
