// The passes for processors with AVX2 and FMA.
#include "smoe/kernels/row_passes_levels.h"
#include "smoe/kernels/row_passes_plain_transpose.h"

namespace smoe {

RowPassesLevel row_passes_avx2() { return {"avx2", make_row_passes<float>(), make_row_passes<Bf16>()}; }

}  // namespace smoe
