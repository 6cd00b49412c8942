// What every file that takes tensors apart for CUDA kernels (*_cuda.cpp) begins and ends with.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "smoe/base/error.h"
#include "smoe/kernels/element_math.h"
#include "smoe/kernels/row_kernels_cuda.h"

namespace smoe {

inline at::ScalarType wide_type(const at::Tensor& t) {
  return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// Calls f, which launches, on t's device, and says what CUDA has to say.
template <class F>
void launch_on_device(const at::Tensor& t, const F& f) {
  const c10::cuda::CUDAGuard device(t.device());
  if (const char* error = f()) throw Failure(concat("a CUDA kernel could not be launched: ", error));
}

/// The same with a null pointer to the kernels' type of t.
template <class F>
void launch(const at::Tensor& t, const F& f) {
  launch_on_device(t, [&] {
    switch (t.scalar_type()) {
      case at::kFloat: return f(static_cast<float*>(nullptr));
      case at::kDouble: return f(static_cast<double*>(nullptr));
      default: return f(static_cast<Bf16*>(nullptr));
    }
  });
}

inline CudaStream stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

/// Contiguous, of the dtype given; undefined stays so.
inline at::Tensor laid_out(const at::Tensor& t, at::ScalarType type) {
  return t.defined() ? t.to(type).contiguous() : t;
}
inline at::Tensor laid_out(const at::Tensor& t) { return laid_out(t, t.defined() ? t.scalar_type() : at::kFloat); }

template <class T>
const T* read(const at::Tensor& t) {
  return t.defined() ? static_cast<const T*>(t.const_data_ptr()) : nullptr;
}
template <class T>
T* write(const at::Tensor& t) {
  return t.defined() ? static_cast<T*>(t.mutable_data_ptr()) : nullptr;
}

}  // namespace smoe
