// How the mixture's backward pass on a CPU is cut into work for threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "smoe/kernels/expert_rows.h"

namespace smoe {

/// An expert's hidden columns [h, h_end).
struct ExpertPiece {
  int64_t e, h, h_end;
  int64_t first_row;  ///< of its rows in buffers that have some for each piece

  int64_t width() const { return h_end - h; }
};

/// All of them; experts without rows have none.
struct ExpertPieces {
  std::vector<ExpertPiece> all;  ///< by expert, and then by column
  std::vector<size_t> first;     ///< [E + 1] the first of each expert
  std::vector<size_t> order;     ///< the largest first, so that no thread is left alone with one at the end
  int64_t rows = 0;              ///< of buffers that have some for each piece, a multiple of eight each
};

/// Cuts an expert with at least two of eight shares of all rows into slices of its H hidden columns, whole multiples of
/// `step`. It depends on the routing alone, not on the threads.
ExpertPieces cut_into_pieces(const ExpertRows& rows, int64_t H, int64_t step);

}  // namespace smoe
