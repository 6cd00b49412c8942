// What kernels (*_cuda.cu) know of their threads, and how they are launched.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace smoe {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

__device__ inline int lane() { return threadIdx.x % kWarp; }

/// Where a walk by single threads begins, and its step; the same for one over rows by whole warps.
__device__ inline int64_t first_thread() { return blockIdx.x * int64_t{blockDim.x} + threadIdx.x; }
__device__ inline int64_t thread_step() { return gridDim.x * int64_t{blockDim.x}; }
__device__ inline int64_t first_row() { return first_thread() / kWarp; }
__device__ inline int64_t row_step() { return thread_step() / kWarp; }

/// Blocks of so many threads for `count` threads, or as many as a grid may have: kernels go round for the rest.
inline unsigned blocks_for(int64_t count, int64_t threads) {
  constexpr int64_t kMost = int64_t{1} << 20;
  return static_cast<unsigned>(std::clamp((count + threads - 1) / threads, int64_t{1}, kMost));
}

/// Null, or CUDA's words for why the last kernel could not be launched.
inline const char* launched() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace smoe
