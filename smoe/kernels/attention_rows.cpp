// The passes for any processor, and the choice among them.
#include "smoe/kernels/attention_rows_body.h"

namespace smoe {

AttentionRows attention_rows_baseline() { return make_attention_rows(); }

const AttentionRows& attention_rows() {
  static const AttentionRows kChosen = [] {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      return attention_rows_avx512();
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return attention_rows_avx2();
#endif
    return attention_rows_baseline();
  }();
  return kChosen;
}

}  // namespace smoe
