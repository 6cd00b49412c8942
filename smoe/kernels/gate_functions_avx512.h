// The functions of an activation's gate, and their derivatives, for sixteen numbers at once. The formulas are those of
// element_math.h; exp and erf are polynomials, within two units in the last place of an fp32 number.
#pragma once

#include <immintrin.h>

#include "smoe/kernels/row_passes.h"

namespace smoe {
namespace {

inline __m512 fill16(float x) { return _mm512_set1_ps(x); }

/// e^x, infinite and zero at the ends; NaN stays. x = n ln 2 + r, in two steps so that r is exact, and a polynomial of r.
inline __m512 exp16(__m512 x) {
  // The second operand is what comes out where one of them is NaN.
  x = _mm512_max_ps(fill16(-104.0f), _mm512_min_ps(fill16(89.0f), x));
  const __m512 n =
      _mm512_roundscale_ps(_mm512_mul_ps(x, fill16(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_fnmadd_ps(n, fill16(-2.12194440e-4f), _mm512_fnmadd_ps(n, fill16(0.693359375f), x));
  __m512 p = fill16(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, fill16(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, fill16(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, fill16(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, fill16(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, fill16(5.0000001201e-1f));
  p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), fill16(1.0f));
  return _mm512_scalef_ps(p, n);
}

/// 1 / (1 + e^−x).
inline __m512 sigmoid16(__m512 x) {
  const __m512 one = fill16(1.0f);
  return _mm512_div_ps(one, _mm512_add_ps(one, exp16(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

/// The error function: near zero an odd polynomial, elsewhere 1 − e^p of a polynomial p, with the sign of x.
inline __m512 erf16(__m512 x) {
  const __m512 size = _mm512_abs_ps(x), square = _mm512_mul_ps(x, x);
  __m512 near = fill16(-5.96761703e-4f);
  near = _mm512_fmadd_ps(near, square, fill16(4.99119423e-3f));
  near = _mm512_fmadd_ps(near, square, fill16(-2.67681349e-2f));
  near = _mm512_fmadd_ps(near, square, fill16(1.12819925e-1f));
  near = _mm512_fmadd_ps(near, square, fill16(-3.76125336e-1f));
  near = _mm512_fmadd_ps(near, square, fill16(1.28379166e-1f));
  near = _mm512_fmadd_ps(near, x, x);
  __m512 far = _mm512_fmadd_ps(fill16(-1.72853470e-5f), size, fill16(3.83197126e-4f));
  const __m512 first = _mm512_fmadd_ps(fill16(-3.88396438e-3f), size, fill16(2.42546219e-2f));
  far = _mm512_fmadd_ps(far, square, first);
  far = _mm512_fmadd_ps(far, size, fill16(-1.06777877e-1f));
  far = _mm512_fmadd_ps(far, size, fill16(-6.34846687e-1f));
  far = _mm512_fmadd_ps(far, size, fill16(-1.28717512e-1f));
  far = _mm512_fmsub_ps(far, size, size);
  const __m512 sign = _mm512_and_ps(x, fill16(-0.0f));
  // Past ten it is one to the last bit, and the polynomial no longer falls.
  const __m512 inner =
      exp16(_mm512_mask_mov_ps(far, _mm512_cmp_ps_mask(size, fill16(10.0f), _CMP_GT_OQ), fill16(-104.0f)));
  const __m512 rest = _mm512_or_ps(_mm512_sub_ps(fill16(1.0f), inner), sign);
  return _mm512_mask_mov_ps(rest, _mm512_cmp_ps_mask(size, fill16(0.921875f), _CMP_LT_OQ), near);
}

struct ValueAndSlope16 {
  __m512 value, slope;
};

/// The function and its derivative at x; what is not asked for costs nothing once this is inlined.
template <GateFunction Function>
inline ValueAndSlope16 gate_function16(__m512 x) {
  const __m512 one = fill16(1.0f), half = fill16(0.5f);
  if constexpr (Function == GateFunction::kRelu) {
    const __mmask16 positive = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLE_UQ);  // NaN too
    return {_mm512_maskz_mov_ps(positive, x), _mm512_maskz_mov_ps(positive, one)};
  } else if constexpr (Function == GateFunction::kGelu) {
    const __m512 area = _mm512_mul_ps(half, _mm512_add_ps(one, erf16(_mm512_mul_ps(x, fill16(0.707106781f)))));
    const __m512 bell = exp16(_mm512_mul_ps(_mm512_mul_ps(fill16(-0.5f), x), x));
    return {_mm512_mul_ps(x, area), _mm512_fmadd_ps(_mm512_mul_ps(x, fill16(0.398942280f)), bell, area)};
  } else if constexpr (Function == GateFunction::kGeluTanh) {
    const __m512 steep = fill16(0.797884561f), cubic = fill16(0.044715f), square = _mm512_mul_ps(x, x);
    const __m512 inner = _mm512_mul_ps(_mm512_mul_ps(steep, x), _mm512_fmadd_ps(cubic, square, one));
    // (1 + tanh u) / 2 is the sigmoid of 2 u, and 1 − tanh² u is four times its derivative.
    const __m512 s = sigmoid16(_mm512_add_ps(inner, inner));
    const __m512 slope_of_inner = _mm512_mul_ps(steep, _mm512_fmadd_ps(fill16(3 * 0.044715f), square, one));
    const __m512 bend = _mm512_mul_ps(_mm512_mul_ps(_mm512_add_ps(x, x), s), _mm512_sub_ps(one, s));
    return {_mm512_mul_ps(x, s), _mm512_fmadd_ps(bend, slope_of_inner, s)};
  } else {
    const __m512 s = sigmoid16(x);
    return {_mm512_mul_ps(x, s), _mm512_mul_ps(s, _mm512_fmadd_ps(x, _mm512_sub_ps(one, s), one))};
  }
}

}  // namespace
}  // namespace smoe
