// Activations between the matrices for AVX-512, other than ReLU: in one pass with bias, rounding, gate and dropout, forward
// and backward.
#pragma once

#include "smoe/kernels/gate_functions_avx512.h"
#include "smoe/kernels/hidden_backward_avx512.h"

namespace smoe {
namespace {

/// Calls call(constant) with the function as a constant of the compiler's.
template <class Call>
inline void with_function(GateFunction function, const Call& call) {
  switch (function) {
    case GateFunction::kRelu: return call(std::integral_constant<GateFunction, GateFunction::kRelu>());
    case GateFunction::kGelu: return call(std::integral_constant<GateFunction, GateFunction::kGelu>());
    case GateFunction::kGeluTanh: return call(std::integral_constant<GateFunction, GateFunction::kGeluTanh>());
    case GateFunction::kSilu: return call(std::integral_constant<GateFunction, GateFunction::kSilu>());
  }
}

/// The sum of a half at column h, with its bias, as T has it; kept.
template <class T>
[[gnu::always_inline]] inline __m512 keep_half(const HiddenHalf<T> half, int64_t r, int64_t h, int64_t width,
                                               int64_t ld_kept, bool streams, __mmask16 lanes) {
  __m512 pre = _mm512_maskz_loadu_ps(lanes, half.sum + r * width + h);
  if (half.bias != nullptr) pre = _mm512_add_ps(pre, _mm512_maskz_loadu_ps(lanes, half.bias + h));
  const __m512 stored = to_stored(half.kept, pre);
  if (half.kept != nullptr) keep16(half.kept + r * ld_kept + h, streams, lanes, stored);
  return from_stored(half.kept, stored);
}

/// RowPasses::activate.
template <class T, GateFunction Function>
void activate_walk(const HiddenTile& given, const HiddenHalf<T>& gate, const HiddenHalf<T>* value, int64_t ld_kept,
                   T* out) {
  const HiddenTile tile = given;
  const HiddenHalf<T> gates = gate, values = value != nullptr ? *value : gate;
  const bool streams = can_stream(gates.kept, ld_kept) && can_stream(values.kept, ld_kept);
  for (int64_t r = 0; r < tile.valid; ++r) {
    for (int64_t h = 0; h < tile.width; h += kLanes) {
      const __mmask16 lanes = first_lanes(std::min(kLanes, tile.width - h));
      __m512 result = gate_function16<Function>(keep_half(gates, r, h, tile.width, ld_kept, streams, lanes)).value;
      if (value != nullptr) {
        result = _mm512_mul_ps(result, keep_half(values, r, h, tile.width, ld_kept, streams, lanes));
      }
      if (tile.mask != nullptr) {
        result = _mm512_mul_ps(result, _mm512_maskz_loadu_ps(lanes, tile.mask + r * tile.width + h));
      }
      store16(out + r * tile.ld + h, lanes, to_stored(out, result));
    }
    clear_padding(tile, out + r * tile.ld);
  }
  _mm_sfence();  // streamed lines are seen by other threads only after it
}

/// RowPasses::activate_backward.
template <class T, GateFunction Function>
void activate_backward_walk(const HiddenTile& tile, HiddenGradient which, const float* through, const float* scale,
                            const T* gate, const T* value, int64_t ld_kept, const HiddenOut<T>& out) {
  const int64_t width = tile.width, valid = tile.valid, ahead = tile.ahead;
  const float* const mask = tile.mask;
  const bool of_value = which == HiddenGradient::kValue;
  const auto row = [=](int64_t r, int64_t c) {
    const int64_t at = r * width + c, kept_at = r * ld_kept + c;
    const __mmask16 lanes = lanes_of(r, valid);
    const __m512 weight = _mm512_set1_ps(r < valid ? scale[r] : 0.0f);
    return [=](int v, __m512& dots) {  // NOLINT(clang-analyzer-optin.performance.Padding): it is never in memory
      const int64_t column = v * kLanes;
      const T* const from = gate + kept_at + column;
      prefetch_later(from + ahead, v);
      const __m512 t = _mm512_maskz_loadu_ps(lanes, through + at + column);
      const ValueAndSlope16 function = gate_function16<Function>(load16(lanes, from));
      HiddenPart part{function.value, _mm512_mul_ps(t, weight)};
      if (mask != nullptr) {
        const __m512 kept = _mm512_maskz_loadu_ps(lanes, mask + at + column);
        part.after = _mm512_mul_ps(part.after, kept);
        part.before = _mm512_mul_ps(part.before, kept);
      }
      if (value != nullptr) {
        const T* const other = value + kept_at + column;
        prefetch_later(other + ahead, v);
        const __m512 values = load16(lanes, other);
        part.after = _mm512_mul_ps(part.after, values);
        if (!of_value) part.before = _mm512_mul_ps(part.before, values);
      }
      part.before = _mm512_mul_ps(part.before, of_value ? function.value : function.slope);
      dots = _mm512_fmadd_ps(t, part.after, dots);
      return part;
    };
  };
  walk_hidden<false>(tile, out, row);
}

}  // namespace
}  // namespace smoe
