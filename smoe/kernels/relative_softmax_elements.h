// What threads of a GPU do for a row of relative_softmax, without LibTorch and without CUDA: the tests run the same text on
// a CPU. T is float, double or Bf16; sums are Wide<T>.
#pragma once

#include <cstdint>

#include "smoe/kernels/element_math.h"

namespace smoe {

template <class T>
struct RelativeSoftmaxArguments {
  int64_t rows, segment, length, window;  ///< G · S, S, L; −1 for no window
  Wide<T> scale;
  const T* content;   ///< [G, S, L]
  const T* relative;  ///< [G, S, L], not shifted
  T* probability;     ///< [G, S, L]
  // Going back only, where content and relative are not looked at:
  const T* of_probability;  ///< [G, S, L]
  T* of_content;            ///< [G, S, L]
  T* of_relative;           ///< [G, S, L]

  /// A row sees the keys from first_key to before end_key.
  SMOE_HOST_DEVICE int64_t end_key(int64_t row) const { return row % segment + length - segment + 1; }
  SMOE_HOST_DEVICE int64_t first_key(int64_t row) const {
    const int64_t first = window < 0 ? 0 : end_key(row) - 1 - window;
    return first > 0 ? first : 0;
  }
  /// How far the row's relative scores stand to the right of their keys.
  SMOE_HOST_DEVICE int64_t shift(int64_t row) const { return segment - 1 - row % segment; }

  SMOE_HOST_DEVICE Wide<T> score(int64_t row, int64_t key) const {
    const int64_t begin = row * length;
    return scale * (widen(content[begin + key]) + widen(relative[begin + key + shift(row)]));
  }

  /// The gradient of a key's score, which is its terms'; dot is Σ probability · of_probability over the row. Zero for what
  /// is not a visible key.
  SMOE_HOST_DEVICE T of_score(int64_t row, int64_t key, Wide<T> dot) const {
    if (key < first_key(row) || key >= end_key(row)) return T{};
    const int64_t at = row * length + key;
    return narrow<T>(scale * widen(probability[at]) * (widen(of_probability[at]) - dot));
  }
};

/// A sum of exponentials, relative to the largest exponent so far. One of NaN is NaN.
template <class F>
struct SumOfExponentials {
  F largest, sum;  ///< where sum is 0, nothing was added yet

  SMOE_HOST_DEVICE void add(F exponent) { add(SumOfExponentials{exponent, 1}); }
  SMOE_HOST_DEVICE void add(SumOfExponentials other) {
    if (other.sum == 0) return;
    if (sum == 0) {
      *this = other;
    } else if (other.largest == largest) {
      sum += other.sum;  // also where both are −∞, the difference of which is no number
    } else if (other.largest > largest) {
      sum = sum * exp_of(largest - other.largest) + other.sum;
      largest = other.largest;
    } else {
      sum += other.sum * exp_of(other.largest - largest);
    }
  }
};

}  // namespace smoe
