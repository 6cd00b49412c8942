// The passes over rows of scores in attention's CPU body. Compiled for several instruction sets from one text
// (attention_rows_body.h), of which the best is chosen once.
#pragma once

#include <cstdint>

namespace smoe {

struct AttentionRows {
  /// The softmax of scale · (content + relative) [count ≥ 1] in place of content; returns the log-sum-exp.
  float (*softmax)(float* content, const float* relative, int64_t count, float scale);

  /// x *= mask, [count].
  void (*multiply)(float* x, const float* mask, int64_t count);

  /// Backward of a row, [count]: p = exp(scale · (content + relative) − log_sum); content becomes p · mask, and gradient
  /// (given: that of p · mask) as well as relative become scale · p · (gradient · mask − delta). mask may be null.
  void (*backward)(float* content, float* relative, float* gradient, const float* mask, int64_t count, float scale,
                   float log_sum, float delta);

  /// out [count] = the bits of bf16 numbers, to nearest even.
  void (*to_bf16)(const float* in, int64_t count, uint16_t* out);
  /// Two rows as a pair of a second operand: out [2 · count] = even[0], odd[0], even[1], …
  void (*to_bf16_pairs)(const float* even, const float* odd, int64_t count, uint16_t* out);
};

const AttentionRows& attention_rows();

// What each file that compiles the passes offers to the one that chooses.
AttentionRows attention_rows_baseline();  // attention_rows.cpp
AttentionRows attention_rows_avx2();      // attention_rows_avx2.cpp
AttentionRows attention_rows_avx512();    // attention_rows_avx512.cpp

}  // namespace smoe
