// What one thread of a GPU does for rows grouped by expert (kernels/row_kernels_cuda.cu), without LibTorch and without
// CUDA: the tests run the same text on a CPU. T is float, double or Bf16; sums are Wide<T>.
#pragma once

#include <cstdint>

#include "smoe/base/philox.h"
#include "smoe/kernels/dropout_rows.h"
#include "smoe/kernels/element_math.h"

namespace smoe {

/// A RowPlan (kernels/row_plan.h) as pointers.
struct RowPlanView {
  const int32_t* offsets;  ///< [E + 1]; null where no expert is asked for
  const int32_t* slot;     ///< [R]
  const int32_t* place;    ///< [T, K]; null where no token is asked for
  int64_t experts, tokens, slots, rows;

  /// Whether the row stands for a slot.
  SMOE_HOST_DEVICE bool is_used(int64_t row) const {
    return row >= 0 && row < rows && slot[row] >= 0 && slot[row] < tokens * slots;
  }
  /// T for a row that fills up a group.
  SMOE_HOST_DEVICE int64_t token_of(int64_t row) const {
    return slots == 0 ? 0 : slot[row] / static_cast<int32_t>(slots);  // 64 bits would take a GPU several times as long
  }

  /// E for a row past the last group.
  SMOE_HOST_DEVICE int64_t expert_of(int64_t row) const {
    int64_t low = 0, high = experts;  // the answer is in [low, high]
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (offsets[middle + 1] > row) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
};

/// Neighbours in a row that a thread takes together: 16 bytes of them, or four, since dropout draws for four at a time.
template <class T>
inline constexpr int64_t kSpan = sizeof(T) < 4 ? 8 : 4;

/// So many neighbours, in what they are computed in.
template <class T>
struct Span {
  Wide<T> at[kSpan<T>];
};

/// The same as they lie in memory.
template <class T>
struct alignas(kSpan<T> * sizeof(T)) HeldSpan {
  T at[kSpan<T>];
};

/// The span of a row that begins at `begin`; numbers past the row's end are 0. Where rows are `whole`, which is when all
/// their spans are and begin at multiples of their size in memory, it is one access.
template <class T>
SMOE_HOST_DEVICE Span<T> load_span(const T* row, int64_t begin, int64_t width, bool whole) {
  HeldSpan<T> held;
  if (whole) {
    held = *reinterpret_cast<const HeldSpan<T>*>(row + begin);
  } else {
    for (int64_t i = 0; i < kSpan<T>; ++i) held.at[i] = begin + i < width ? row[begin + i] : T{};
  }
  Span<T> out;
  for (int64_t i = 0; i < kSpan<T>; ++i) out.at[i] = widen(held.at[i]);
  return out;
}

template <class T>
SMOE_HOST_DEVICE void store_span(T* row, int64_t begin, int64_t width, bool whole, const Span<T>& values) {
  HeldSpan<T> held;
  for (int64_t i = 0; i < kSpan<T>; ++i) held.at[i] = narrow<T>(values.at[i]);
  if (whole) {
    *reinterpret_cast<HeldSpan<T>*>(row + begin) = held;
  } else {
    for (int64_t i = 0; i < kSpan<T> && begin + i < width; ++i) row[begin + i] = held.at[i];
  }
}

/// The biases [E, N] of experts, in the dtype of the rows or as wide as sums are; null where there are none.
template <class T>
struct Biases {
  const T* as_rows;
  const Wide<T>* as_sums;
  bool whole;  ///< of the parts that are added (load_span)

  SMOE_HOST_DEVICE bool are_given() const { return as_rows != nullptr || as_sums != nullptr; }

  /// Adds to `span` what an expert's bias has there, from `begin` on in a row of so many numbers.
  SMOE_HOST_DEVICE void add_to(Span<T>& span, int64_t expert, int64_t begin, int64_t width) const {
    struct alignas(16) Held {
      Wide<T> at[kSpan<T>];
    };
    Held held;
    const int64_t first = expert * width + begin;
    if (as_rows != nullptr) {
      const Span<T> bias = load_span(as_rows + expert * width, begin, width, whole);
      for (int64_t i = 0; i < kSpan<T>; ++i) held.at[i] = bias.at[i];
    } else if (whole) {
      held = *reinterpret_cast<const Held*>(as_sums + first);
    } else {
      for (int64_t i = 0; i < kSpan<T>; ++i) held.at[i] = begin + i < width ? as_sums[first + i] : 0;
    }
    for (int64_t i = 0; i < kSpan<T>; ++i) span.at[i] += held.at[i];
  }
};

/// Sixteen bytes, to move rows by.
struct alignas(16) Chunk {
  uint32_t words[4];
};

/// out[row, d] of gather_rows.
template <class T>
SMOE_HOST_DEVICE T gathered_element(const RowPlanView& plan, const T* x, int64_t width, int64_t row, int64_t d) {
  return plan.is_used(row) ? x[plan.token_of(row) * width + d] : T{};
}

/// y of combine_rows, where rows may still lack the bias [E, D] of their experts.
template <class T>
struct CombineArguments {
  RowPlanView plan;
  const T* rows;          ///< [R, D]
  Biases<T> bias;         ///< [E, D]
  const Wide<T>* weight;  ///< [T, K] or null for ones
  int64_t width;          ///< D
  bool whole;             ///< of rows and out (load_span)
  T* out;                 ///< [T, D]
};

/// What one of a token's slots adds.
template <class T>
struct CombineSlot {
  int64_t row;     ///< −1 for nothing
  int64_t expert;  ///< where there is a bias
  Wide<T> weight;
};

/// The i-th of all places.
template <class T>
SMOE_HOST_DEVICE CombineSlot<T> combine_slot(const CombineArguments<T>& a, int64_t i) {
  const int64_t row = a.plan.place[i];
  if (!a.plan.is_used(row)) return {-1, 0, 0};
  return {row, a.bias.are_given() ? a.plan.expert_of(row) : 0,
          a.weight != nullptr ? a.weight[a.plan.slot[row]] : Wide<T>(1)};
}

/// Adds a slot to y[t, begin …].
template <class T>
SMOE_HOST_DEVICE void combine_span(const CombineArguments<T>& a, const CombineSlot<T>& slot, int64_t begin,
                                   Span<T>& sum) {
  if (slot.row < 0) return;
  Span<T> value = load_span(a.rows + slot.row * a.width, begin, a.width, a.whole);
  if (a.bias.are_given()) a.bias.add_to(value, slot.expert, begin, a.width);
  for (int64_t i = 0; i < kSpan<T>; ++i) sum.at[i] += slot.weight * value.at[i];
}

/// The gradients of combine_rows: of_rows, and the share of a span in the gradient of the row's weight.
template <class T>
struct SpreadArguments {
  RowPlanView plan;
  const T* gradient;      ///< [T, D]
  const T* rows;          ///< [R, D] or null where the weight's gradient is not wanted
  const Wide<T>* weight;  ///< [T, K] or null for ones
  int64_t width;
  bool whole;          ///< of the rows of all three (load_span)
  T* of_rows;          ///< [R, D]
  Wide<T>* of_weight;  ///< [T, K], zero before; null where not wanted
};

template <class T>
SMOE_HOST_DEVICE Wide<T> spread_span(const SpreadArguments<T>& a, int64_t row, int64_t begin) {
  const bool used = a.plan.is_used(row);
  Span<T> g = {}, held = {};
  if (used) g = load_span(a.gradient + a.plan.token_of(row) * a.width, begin, a.width, a.whole);
  if (used && a.rows != nullptr) held = load_span(a.rows + row * a.width, begin, a.width, a.whole);
  const Wide<T> weight = used && a.weight != nullptr ? a.weight[a.plan.slot[row]] : Wide<T>(1);
  Wide<T> dot = 0;
  for (int64_t i = 0; i < kSpan<T>; ++i) {
    dot += g.at[i] * held.at[i];
    g.at[i] *= weight;
  }
  store_span(a.of_rows + row * a.width, begin, a.width, a.whole, g);
  return dot;
}

/// Between the two matrices of an expert.
template <class T>
struct HiddenArguments {
  RowPlanView plan;
  int64_t units;  ///< H
  GateFunction function;
  bool gated, whole;         ///< whole: of the halves of all rows (load_span)
  uint64_t key, drop_below;  ///< of a DropoutRule
  float kept_scale;
  Biases<T> bias;  ///< [E, H or 2 H] to be added to pre
  bool keep_pre;   ///< with its bias; else pre may stay without it
  T* pre;          ///< [R, H or 2 H]
  T* after;        ///< [R, H]; going back, times the weight of the row
  // Going back only:
  const T* through;      ///< [R, H], or null where only `after` is wanted; may be `after`
  const Wide<T>* scale;  ///< [R]
  T* of_pre;             ///< [R, H or 2 H]

  SMOE_HOST_DEVICE int64_t pre_width() const { return gated ? 2 * units : units; }
  /// Where a half of a row of pre, or of what is as wide, begins: the gate's, or the other.
  SMOE_HOST_DEVICE int64_t place(int64_t row, int half) const { return row * pre_width() + half * units; }
};

/// Dropout's factors for the units of a row from `begin` on.
template <class T>
SMOE_HOST_DEVICE Span<T> mask_span(const HiddenArguments<T>& a, int64_t expert, int64_t row, int64_t begin) {
  Span<T> out;
  if (a.drop_below == 0) {
    for (Wide<T>& each : out.at) each = a.kept_scale;
    return out;
  }
  const uint64_t counter = expert_counter(a.plan.token_of(row), expert);
  for (int64_t four = 0; four < kSpan<T>; four += 4) {
    const PhiloxBlock words = philox(a.key, static_cast<uint64_t>((begin + four) / 4), counter);
    for (int i = 0; i < 4; ++i) out.at[four + i] = words[static_cast<size_t>(i)] < a.drop_below ? 0 : a.kept_scale;
  }
  return out;
}

/// Adds the bias to units of pre and computes them, in a row of `expert`. Rows past the last group become zero.
template <class T>
SMOE_HOST_DEVICE void hidden_span(const HiddenArguments<T>& a, int64_t row, int64_t expert, int64_t begin) {
  const bool past = expert == a.plan.experts;
  Span<T> half[2] = {};
  for (int h = 0; !past && h < (a.gated ? 2 : 1); ++h) {
    half[h] = load_span(a.pre + a.place(row, h), begin, a.units, a.whole);
  }
  const Span<T> mask = mask_span(a, expert, row, begin);
  for (int h = 0; h < (a.gated ? 2 : 1); ++h) {
    if (!past && a.bias.are_given()) {
      // An expert's bias is a row of both halves, of which this is a part.
      a.bias.add_to(half[h], expert, h * a.units + begin, a.pre_width());
      for (Wide<T>& each : half[h].at) each = widen(narrow<T>(each));
    }
    const bool changed = past || a.bias.are_given();
    if (changed && a.keep_pre) store_span(a.pre + a.place(row, h), begin, a.units, a.whole, half[h]);
  }
  Span<T> after;
  for (int64_t i = 0; i < kSpan<T>; ++i) {
    const Wide<T> value = gate_function_at(a.function, half[0].at[i]).value;
    after.at[i] = past ? 0 : (a.gated ? value * half[1].at[i] : value) * mask.at[i];
  }
  store_span(a.after + row * a.units, begin, a.units, a.whole, after);
}

/// The gradient of some units, and their share of ⟨through, after⟩, in a row of `expert`. Rows that stand for no slot give
/// zeros.
template <class T>
SMOE_HOST_DEVICE Wide<T> hidden_span_backward(const HiddenArguments<T>& a, int64_t row, int64_t expert, int64_t begin) {
  const bool used = a.plan.is_used(row);
  const auto loaded = [&](const T* from) { return load_span(from, begin, a.units, a.whole); };
  Span<T> gate = {}, value = {}, through = {}, weighted = {}, of_gate = {}, of_value = {};
  if (used) {
    gate = loaded(a.pre + a.place(row, 0));
    if (a.gated) value = loaded(a.pre + a.place(row, 1));
    if (a.through != nullptr) through = loaded(a.through + row * a.units);
  }
  const Wide<T> scale = used ? a.scale[row] : Wide<T>(0);
  const Span<T> mask = mask_span(a, expert, row, begin);
  Wide<T> dot = 0;
  for (int64_t i = 0; used && i < kSpan<T>; ++i) {
    const auto [function, slope] = gate_function_at(a.function, gate.at[i]);
    const Wide<T> factor = a.gated ? value.at[i] : Wide<T>(1);
    const Wide<T> after = function * factor * mask.at[i], of_after = through.at[i] * scale * mask.at[i];
    weighted.at[i] = after * scale;
    dot += through.at[i] * after;
    of_gate.at[i] = of_after * factor * slope;
    of_value.at[i] = of_after * function;
  }
  store_span(a.after + row * a.units, begin, a.units, a.whole, weighted);
  if (a.through == nullptr) return dot;
  store_span(a.of_pre + a.place(row, 0), begin, a.units, a.whole, of_gate);
  if (a.gated) store_span(a.of_pre + a.place(row, 1), begin, a.units, a.whole, of_value);
  return dot;
}

/// The share in the sums over an expert's rows of the columns from `n` on: every `step`th row from the `begin`th; scale
/// may be null.
template <class T>
SMOE_HOST_DEVICE Span<T> column_sums_span(const RowPlanView& plan, const T* rows, const Wide<T>* scale, int64_t width,
                                          bool whole, int64_t expert, int64_t n, int64_t begin, int64_t step) {
  Span<T> sum = {};
  for (int64_t row = plan.offsets[expert] + begin; row < plan.offsets[expert + 1]; row += step) {
    const Span<T> value = load_span(rows + row * width, n, width, whole);
    const Wide<T> factor = scale != nullptr ? scale[row] : Wide<T>(1);
    for (int64_t i = 0; i < kSpan<T>; ++i) sum.at[i] += factor * value.at[i];
  }
  return sum;
}

/// Four elements of smoe::dropout, from the 4 quad-th.
template <class T>
SMOE_HOST_DEVICE void dropout_quad(const T* x, int64_t count, uint64_t key, uint64_t drop_below, float kept_scale,
                                   int64_t quad, T* out) {
  const PhiloxBlock words = philox(key, static_cast<uint64_t>(quad), 0);
  const Wide<T> kept = widen(narrow<T>(kept_scale));  // rounded first, as on a CPU
  for (int64_t n = 4 * quad, i = 0; i < 4 && n < count; ++n, ++i) {
    out[n] = narrow<T>(widen(x[n]) * (words[static_cast<size_t>(i)] < drop_below ? 0 : kept));
  }
}

}  // namespace smoe
