// The passes for processors with AVX2 and FMA.
#include "smoe/kernels/attention_rows_body.h"

namespace smoe {

AttentionRowsLevel attention_rows_avx2() { return make_attention_rows_level(); }

}  // namespace smoe
