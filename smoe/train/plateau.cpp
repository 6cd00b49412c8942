#include "smoe/train/plateau.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace smoe {

double unigram_bits(const TokenSequence& text) {
  std::array<int64_t, 256> count{};
  const int64_t size = std::min<int64_t>(text.size(), 1 << 24);  // as good as all of a longer text
  for (int64_t i = 0; i < size; ++i) ++count[text.data()[i]];
  double bits = 0;
  for (const int64_t n : count) {
    if (n == 0) continue;
    const double p = static_cast<double>(n) / static_cast<double>(size);
    bits -= p * std::log2(p);
  }
  return bits;
}

std::optional<std::string> PlateauWatch::observe(int64_t step, double bits) {
  mean_ += kSmoothing * (bits - mean_);
  weight_ += kSmoothing * (1 - weight_);
  const double recent = mean_ / weight_;
  if (warned_ || step < first_check_ || recent < kNear * unigram_bits_) return std::nullopt;
  warned_ = true;
  char text[256];
  std::snprintf(
      text, sizeof text,
      "warning: step %lld: %.2f bpc is what letter frequencies alone give (%.2f): the model does not read its "
      "input. Lower optimizer.lr, lengthen optimizer.warmup or lower k_schedule.min; see docs/training.md",
      static_cast<long long>(step), recent, unigram_bits_);
  return text;
}

int64_t plateau_first_check(int64_t steps, int64_t warmup) { return std::max({int64_t{300}, 2 * warmup, steps / 100}); }

}  // namespace smoe
