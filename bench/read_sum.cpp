#include "bench/read_sum_body.h"

namespace smoe::bench {

uint64_t read_sum(const void* data, int64_t bytes) {
#if defined(__x86_64__)
  static const bool kAvx512 = __builtin_cpu_supports("avx512f"), kAvx2 = __builtin_cpu_supports("avx2");
  if (kAvx512) return read_sum_avx512(data, bytes);
  if (kAvx2) return read_sum_avx2(data, bytes);
#endif
  return read_sum_body<16>(data, bytes);
}

}  // namespace smoe::bench
