// The passes for processors with AVX-512 (F, BW, DQ, VL).
#include "smoe/kernels/attention_rows_body.h"

namespace smoe {

AttentionRows attention_rows_avx512() { return make_attention_rows(); }

}  // namespace smoe
