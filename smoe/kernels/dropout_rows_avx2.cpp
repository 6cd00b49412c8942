// Dropout's masks on processors with AVX2.
#include "smoe/kernels/dropout_rows_body.h"

namespace smoe {

FillDropoutWords fill_dropout_avx2() { return fill_words; }

}  // namespace smoe
