// Rows of dropout's masks without LibTorch, for kernels that work on tiles. Compiled for several instruction sets from
// one text (dropout_rows_body.h), of which the best is chosen once; all give the same bits.
#pragma once

#include <cstdint>

namespace smoe {

/// The mask of one call: which elements it drops, and what the others are multiplied by.
struct DropoutRule {
  /// p in [0, 1); throws UserError otherwise.
  DropoutRule(double p, uint64_t mask_key);

  uint64_t key;         ///< stands for seed, step, layer and place
  uint64_t drop_below;  ///< a random word below this drops its element
  float scale;          ///< 1/(1−p)
};

/// The upper half of the counter for the hidden units of a token in an expert.
constexpr uint64_t expert_counter(int64_t token, int64_t expert) {
  return (static_cast<uint64_t>(expert) << 32) | static_cast<uint32_t>(token);
}

/// out [count] = 0 or rule.scale: the elements first, first + 1, … of the mask with the counter's upper half `high`;
/// first a multiple of 4. Element n is dropped by word n % 4 of the Philox block (n / 4, high).
void fill_dropout(const DropoutRule& rule, uint64_t high, int64_t first, int64_t count, float* out);

}  // namespace smoe
