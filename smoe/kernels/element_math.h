// The arithmetic of single elements, one text for a CPU and a GPU, so that what a GPU computes is tested on a CPU.
#pragma once

#include <math.h>

#include <cstdint>
#include <cstring>

#include "smoe/kernels/row_passes.h"

#if defined(__CUDACC__)
#define SMOE_HOST_DEVICE __host__ __device__
#else
#define SMOE_HOST_DEVICE
#endif

namespace smoe {

/// What numbers of a type are computed in: double for double, else float.
template <class T>
struct WideType {
  using type = float;
};
template <>
struct WideType<double> {
  using type = double;
};
template <class T>
using Wide = typename WideType<T>::type;  // NOLINT(readability-redundant-typename): nvcc compiles it as C++17

SMOE_HOST_DEVICE inline float widen(float x) { return x; }
SMOE_HOST_DEVICE inline double widen(double x) { return x; }
SMOE_HOST_DEVICE inline float widen(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  memcpy(&out, &bits, sizeof out);
  return out;
}

SMOE_HOST_DEVICE inline void narrow_to(float x, float& out) { out = x; }
SMOE_HOST_DEVICE inline void narrow_to(double x, double& out) { out = x; }
/// Rounds to the nearest, ties to even; NaN stays NaN. A GPU has an instruction for it.
SMOE_HOST_DEVICE inline void narrow_to(float x, Bf16& out) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  out.bits = x != x ? uint16_t{0x7FC0} : static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
#endif
}

template <class T>
SMOE_HOST_DEVICE T narrow(Wide<T> x) {
  T out;
  narrow_to(x, out);
  return out;
}

SMOE_HOST_DEVICE inline float exp_of(float x) { return expf(x); }
SMOE_HOST_DEVICE inline double exp_of(double x) { return exp(x); }
SMOE_HOST_DEVICE inline float erf_of(float x) { return erff(x); }
SMOE_HOST_DEVICE inline double erf_of(double x) { return erf(x); }
SMOE_HOST_DEVICE inline float tanh_of(float x) { return tanhf(x); }
SMOE_HOST_DEVICE inline double tanh_of(double x) { return tanh(x); }

/// The function and its derivative at x.
template <class F>
struct ValueAndSlope {
  F value, slope;
};

/// ReLU lets NaN through, as LibTorch's does. GELU is x Φ(x), with tanh its approximation by Hendrycks and Gimpel (2016);
/// SiLU is x σ(x).
template <class F>
SMOE_HOST_DEVICE ValueAndSlope<F> gate_function_at(GateFunction function, F x) {
  const F one = 1, half = F(0.5);
  switch (function) {
    case GateFunction::kRelu: return {x <= 0 ? F(0) : x, x <= 0 ? F(0) : one};
    case GateFunction::kGelu: {
      const F area = half * (one + erf_of(x * F(0.70710678118654752440)));
      return {x * area, area + x * F(0.39894228040143267794) * exp_of(-half * x * x)};
    }
    case GateFunction::kGeluTanh: {
      const F steep = F(0.79788456080286535588), cubic = F(0.044715);
      const F t = tanh_of(steep * (x + cubic * x * x * x));
      const F inner = steep * (one + F(3) * cubic * x * x);
      return {half * x * (one + t), half * (one + t) + half * x * (one - t * t) * inner};
    }
    default: {
      const F s = one / (one + exp_of(-x));
      return {x * s, s * (one + x * (one - s))};
    }
  }
}

}  // namespace smoe
