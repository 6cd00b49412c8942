// The passes for any processor, and the choice among them.
#include "smoe/kernels/instruction_sets.h"
#include "smoe/kernels/row_passes_levels.h"
#include "smoe/kernels/row_passes_plain_transpose.h"

namespace smoe {
namespace {

const RowPassesLevel& level() {
  static const RowPassesLevel kChosen = [] {
#if defined(__x86_64__)
    if (has_avx512()) return row_passes_avx512();
    if (has_avx2()) return row_passes_avx2();
#endif
    return row_passes_baseline();
  }();
  return kChosen;
}

}  // namespace

RowPassesLevel row_passes_baseline() { return {"baseline", make_row_passes<float>(), make_row_passes<Bf16>()}; }

template <>
const RowPasses<float>& row_passes<float>() {
  return level().fp32;
}

template <>
const RowPasses<Bf16>& row_passes<Bf16>() {
  return level().bf16;
}

const char* row_passes_level() { return level().name; }

}  // namespace smoe
