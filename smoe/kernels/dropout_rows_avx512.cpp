// Dropout's masks on processors with AVX-512 (F, BW, DQ, VL).
#include "smoe/kernels/dropout_rows_body.h"

namespace smoe {

FillDropoutWords fill_dropout_avx512() { return fill_words; }

}  // namespace smoe
