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
  SMOE_HOST_DEVICE int64_t token_of(int64_t row) const { return slots == 0 ? 0 : slot[row] / slots; }

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

/// out[row, d] of gather_rows.
template <class T>
SMOE_HOST_DEVICE T gathered_element(const RowPlanView& plan, const T* x, int64_t width, int64_t row, int64_t d) {
  return plan.is_used(row) ? x[plan.token_of(row) * width + d] : narrow<T>(0);
}

/// y[t, d] of combine_rows, where rows may still lack the bias [E, D] of their experts.
template <class T>
struct CombineArguments {
  RowPlanView plan;
  const T* rows;          ///< [R, D]
  const T* bias;          ///< [E, D] or null
  const Wide<T>* weight;  ///< [T, K] or null for ones
  int64_t width;          ///< D
  T* out;                 ///< [T, D]
};

template <class T>
SMOE_HOST_DEVICE void combine_element(const CombineArguments<T>& a, int64_t token, int64_t d) {
  Wide<T> sum = 0;
  for (int64_t i = token * a.plan.slots; i < (token + 1) * a.plan.slots; ++i) {
    const int64_t row = a.plan.place[i];
    if (!a.plan.is_used(row)) continue;
    Wide<T> value = widen(a.rows[row * a.width + d]);
    if (a.bias != nullptr) value += widen(a.bias[a.plan.expert_of(row) * a.width + d]);
    sum += a.weight != nullptr ? a.weight[a.plan.slot[row]] * value : value;
  }
  a.out[token * a.width + d] = narrow<T>(sum);
}

/// The gradients of combine_rows: of_rows[row, d], and the term of d in the gradient of the row's weight.
template <class T>
struct SpreadArguments {
  RowPlanView plan;
  const T* gradient;      ///< [T, D]
  const T* rows;          ///< [R, D] or null where the weight's gradient is not wanted
  const Wide<T>* weight;  ///< [T, K] or null for ones
  int64_t width;
  T* of_rows;          ///< [R, D]
  Wide<T>* of_weight;  ///< [T, K], zero before; null where not wanted
};

template <class T>
SMOE_HOST_DEVICE Wide<T> spread_element(const SpreadArguments<T>& a, int64_t row, int64_t d) {
  const bool used = a.plan.is_used(row);
  const Wide<T> g = used ? widen(a.gradient[a.plan.token_of(row) * a.width + d]) : Wide<T>(0);
  const Wide<T> w = used && a.weight != nullptr ? a.weight[a.plan.slot[row]] : Wide<T>(1);
  a.of_rows[row * a.width + d] = narrow<T>(w * g);
  return used && a.rows != nullptr ? g * widen(a.rows[row * a.width + d]) : Wide<T>(0);
}

/// Between the two matrices of an expert. Hidden units are taken four at a time, as dropout draws its words.
template <class T>
struct HiddenArguments {
  RowPlanView plan;
  int64_t units;  ///< H
  GateFunction function;
  bool gated;
  uint64_t key, drop_below;  ///< of a DropoutRule
  float kept_scale;
  const T* bias;  ///< [E, H or 2 H] to be added to pre, or null
  T* pre;         ///< [R, H or 2 H]
  T* after;       ///< [R, H]; going back, times the weight of the row
  // Going back only:
  const T* through;      ///< [R, H], or null where only `after` is wanted
  const Wide<T>* scale;  ///< [R]
  T* of_pre;             ///< [R, H or 2 H]

  SMOE_HOST_DEVICE int64_t pre_width() const { return gated ? 2 * units : units; }
};

/// Dropout's factors for the units 4 quad … 4 quad + 3 of a row.
template <class T>
struct QuadMask {
  Wide<T> factor[4];

  SMOE_HOST_DEVICE QuadMask(const HiddenArguments<T>& a, int64_t expert, int64_t row, int64_t quad) {
    if (a.drop_below == 0) {
      for (Wide<T>& each : factor) each = a.kept_scale;
      return;
    }
    const PhiloxBlock words = philox(a.key, static_cast<uint64_t>(quad), expert_counter(a.plan.token_of(row), expert));
    for (int i = 0; i < 4; ++i) factor[i] = words[static_cast<size_t>(i)] < a.drop_below ? 0 : a.kept_scale;
  }
};

/// Adds the bias to four units of pre and computes them. Rows past the last group become zero.
template <class T>
SMOE_HOST_DEVICE void hidden_quad(const HiddenArguments<T>& a, int64_t row, int64_t quad) {
  const int64_t expert = a.plan.expert_of(row), width = a.pre_width();
  const bool past = expert == a.plan.experts;
  const QuadMask<T> mask(a, expert, row, quad);
  for (int64_t u = 4 * quad, i = 0; i < 4 && u < a.units; ++u, ++i) {
    Wide<T> half[2] = {0, 1};
    for (int h = 0; h < (a.gated ? 2 : 1); ++h) {
      const int64_t at = h * a.units + u;
      T& pre = a.pre[row * width + at];
      if (past) pre = narrow<T>(0);
      if (!past && a.bias != nullptr) pre = narrow<T>(widen(pre) + widen(a.bias[expert * width + at]));
      half[h] = widen(pre);
    }
    const Wide<T> value = gate_function_at(a.function, half[0]).value * half[1];
    a.after[row * a.units + u] = narrow<T>(past ? 0 : value * mask.factor[i]);
  }
}

/// The gradient of four units, and their share of ⟨through, after⟩. Rows that stand for no slot give zeros.
template <class T>
SMOE_HOST_DEVICE Wide<T> hidden_quad_backward(const HiddenArguments<T>& a, int64_t row, int64_t quad) {
  const bool used = a.plan.is_used(row);
  const int64_t expert = used ? a.plan.expert_of(row) : 0, width = a.pre_width();
  const QuadMask<T> mask(a, expert, row, quad);
  const Wide<T> scale = used ? a.scale[row] : Wide<T>(0);
  Wide<T> dot = 0;
  for (int64_t u = 4 * quad, i = 0; i < 4 && u < a.units; ++u, ++i) {
    const int64_t gate_at = row * width + u, value_at = gate_at + a.units;
    const auto [function, slope] = gate_function_at(a.function, used ? widen(a.pre[gate_at]) : Wide<T>(0));
    const Wide<T> value = a.gated ? (used ? widen(a.pre[value_at]) : Wide<T>(0)) : Wide<T>(1);
    const Wide<T> after = function * value * mask.factor[i];
    a.after[row * a.units + u] = narrow<T>(used ? after * scale : 0);
    if (a.through == nullptr) continue;
    const Wide<T> through = used ? widen(a.through[row * a.units + u]) : Wide<T>(0);
    const Wide<T> of_after = through * scale * mask.factor[i];
    dot += through * after;
    a.of_pre[gate_at] = narrow<T>(used ? of_after * value * slope : 0);
    if (a.gated) a.of_pre[value_at] = narrow<T>(used ? of_after * function : 0);
  }
  return used ? dot : Wide<T>(0);
}

/// The share in the sum over an expert's rows of column n: every `step`th row from the `begin`th; scale may be null.
template <class T>
SMOE_HOST_DEVICE Wide<T> column_sum(const RowPlanView& plan, const T* rows, const Wide<T>* scale, int64_t width,
                                    int64_t expert, int64_t n, int64_t begin, int64_t step) {
  Wide<T> sum = 0;
  for (int64_t row = plan.offsets[expert] + begin; row < plan.offsets[expert + 1]; row += step) {
    const Wide<T> value = widen(rows[row * width + n]);
    sum += scale != nullptr ? scale[row] * value : value;
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
