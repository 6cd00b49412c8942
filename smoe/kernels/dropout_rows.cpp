// Dropout's masks on any processor, and the choice among the instruction sets.
#include "smoe/kernels/dropout_rows.h"

#include <algorithm>

#include "smoe/base/error.h"
#include "smoe/base/philox.h"
#include "smoe/kernels/dropout_rows_body.h"
#include "smoe/kernels/instruction_sets.h"

namespace smoe {
namespace {

FillDropoutWords choose() {
#if defined(__x86_64__)
  if (has_avx512()) return fill_dropout_avx512();
  if (has_avx2()) return fill_dropout_avx2();
#endif
  return fill_dropout_baseline();
}

}  // namespace

FillDropoutWords fill_dropout_baseline() { return fill_words; }

DropoutRule::DropoutRule(double p, uint64_t mask_key) : key(mask_key) {
  require(p >= 0 && p < 1, "dropout: p must be in [0, 1), got ", p);
  drop_below = bernoulli_threshold(p);
  scale = static_cast<float>(1.0 / (1.0 - p));
}

void fill_dropout(const DropoutRule& rule, uint64_t high, int64_t first, int64_t count, float* out) {
  static const FillDropoutWords kFill = choose();
  if (rule.drop_below == 0) {
    std::fill_n(out, count, rule.scale);
    return;
  }
  const DropoutWords words{rule.key, high, static_cast<uint32_t>(rule.drop_below - 1), rule.scale};
  kFill(words, static_cast<uint64_t>(first) / 4, count, out);
}

}  // namespace smoe
