// The passes over rows of scores in attention's CPU body. One text for any processor and for AVX2 (attention_rows_body.h),
// another for AVX-512; the best is chosen once.
#pragma once

#include <cstdint>

#include "smoe/kernels/row_passes.h"

namespace smoe {

/// Numbers of a wider row: its columns [first, first + count); the others are zero.
struct RowPart {
  const float* data;
  int64_t first, count;
};

/// What a row's exponentials were taken from, and come to.
struct RowExponentials {
  float top, sum;
};

/// Rows of `width` numbers, `stride` apart.
template <class T>
struct RowsApart {
  const T* first;
  int64_t stride, count, width;
};

/// T is float or Bf16: the dtype of queries, keys, values and of the operands of the products.
template <class T>
struct AttentionRows {
  /// Of scores s = scale · (content + relative) [count ≥ 1]: out = T(e^(s − top) · mask) with the largest as top, and the sum of
  /// the exponentials before the mask, which may be null. Overwrites content; out may be content where T is float.
  RowExponentials (*exponentials)(float* content, const float* relative, const float* mask, int64_t count, float scale,
                                  T* out);

  /// Backward of a row, [count]: p = e^(scale · (content + relative) − log_sum); content becomes p · mask, and gradient (given:
  /// that of p · mask) becomes scale · p · (gradient · mask − delta), that of either term of the score. mask may be null.
  void (*backward)(float* content, const float* relative, float* gradient, const float* mask, int64_t count,
                   float scale, float log_sum, float delta);

  /// Two rows of `width`, a multiple of 16, as rows `ld` apart of a first operand, unless that is null, and as the pair of rows of
  /// a second one: even[0], odd[0], even[1], … Null for fp32, whose rows are operands as they are.
  void (*put_pair)(const RowPart& even, const RowPart& odd, int64_t width, T* first, int64_t ld, T* second);

  /// out [count] = T(scale · in).
  void (*put_scaled)(const float* in, float scale, int64_t count, T* out);

  /// Σ a · b over [count].
  float (*dot)(const T* a, const T* b, int64_t count);

  /// out [rows.count] = each row · query [width], and out [width] += Σ of weight · row.
  void (*dots)(const RowsApart<T>& rows, const float* query, float* out);
  void (*add_rows)(const RowsApart<T>& rows, const float* weight, float* out);
};

template <class T>
const AttentionRows<T>& attention_rows();

/// The passes for one instruction set.
struct AttentionRowsLevel {
  AttentionRows<float> fp32;
  AttentionRows<Bf16> bf16;
};

// What each file that compiles the passes offers to the one that chooses.
AttentionRowsLevel attention_rows_baseline();  // attention_rows.cpp
AttentionRowsLevel attention_rows_avx2();      // attention_rows_avx2.cpp
AttentionRowsLevel attention_rows_avx512();    // attention_rows_avx512.cpp

}  // namespace smoe
