#include "bench/read_sum_body.h"

namespace smoe::bench {

uint64_t read_sum_avx512(const void* data, int64_t bytes) { return read_sum_body<64>(data, bytes); }

}  // namespace smoe::bench
