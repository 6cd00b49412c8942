// The passes for any processor, and the choice among them.
#include "smoe/kernels/attention_rows_body.h"
#include "smoe/kernels/instruction_sets.h"

namespace smoe {
namespace {

const AttentionRowsLevel& level() {
  static const AttentionRowsLevel kChosen = [] {
#if defined(__x86_64__)
    if (has_avx512()) return attention_rows_avx512();
    if (has_avx2()) return attention_rows_avx2();
#endif
    return attention_rows_baseline();
  }();
  return kChosen;
}

}  // namespace

AttentionRowsLevel attention_rows_baseline() { return make_attention_rows_level(); }

template <>
const AttentionRows<float>& attention_rows<float>() {
  return level().fp32;
}

template <>
const AttentionRows<Bf16>& attention_rows<Bf16>() {
  return level().bf16;
}

}  // namespace smoe
