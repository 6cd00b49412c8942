// Each kernel is a walk over elements whose arithmetic is in row_elements.h. Nothing is summed up by atomics: where
// threads share a sum, they add their shares in one fixed order.
#include <cuda_runtime.h>

#include <algorithm>

#include "smoe/kernels/row_kernels_cuda.h"

namespace smoe {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int64_t kMaxBlocks = int64_t{1} << 20;  // kernels go round for the rest

unsigned blocks_for(int64_t count) { return static_cast<unsigned>(std::min(std::max<int64_t>(count, 1), kMaxBlocks)); }

const char* launched() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

/// The sum over the 32 threads of a warp, in the first of them.
template <class F>
__device__ F warp_sum(F value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += __shfl_down_sync(0xFFFFFFFFu, value, distance);
  return value;
}

/// Where a walk over `rows` by whole warps begins, and its step.
__device__ int64_t first_row() { return (blockIdx.x * int64_t{kThreads} + threadIdx.x) / kWarp; }
__device__ int64_t row_step() { return gridDim.x * int64_t{kThreads} / kWarp; }
__device__ int lane() { return threadIdx.x % kWarp; }
unsigned blocks_for_rows(int64_t rows) { return blocks_for((rows * kWarp + kThreads - 1) / kThreads); }

template <class T>
__global__ void gather_kernel(RowPlanView plan, const T* x, int64_t width, T* out) {
  for (int64_t row = first_row(); row < plan.rows; row += row_step()) {
    for (int64_t d = lane(); d < width; d += kWarp) out[row * width + d] = gathered_element(plan, x, width, row, d);
  }
}

template <class T>
__global__ void combine_kernel(CombineArguments<T> a) {
  for (int64_t token = first_row(); token < a.plan.tokens; token += row_step()) {
    for (int64_t d = lane(); d < a.width; d += kWarp) combine_element(a, token, d);
  }
}

template <class T>
__global__ void spread_kernel(SpreadArguments<T> a) {
  for (int64_t row = first_row(); row < a.plan.rows; row += row_step()) {
    Wide<T> dot = 0;
    for (int64_t d = lane(); d < a.width; d += kWarp) dot += spread_element(a, row, d);
    dot = warp_sum(dot);
    if (lane() == 0 && a.of_weight != nullptr && a.plan.is_used(row)) a.of_weight[a.plan.slot[row]] = dot;
  }
}

template <class T>
__global__ void hidden_kernel(HiddenArguments<T> a) {
  for (int64_t row = first_row(); row < a.plan.rows; row += row_step()) {
    for (int64_t quad = lane(); 4 * quad < a.units; quad += kWarp) hidden_quad(a, row, quad);
  }
}

template <class T>
__global__ void hidden_backward_kernel(HiddenArguments<T> a, const T* of_rows, const T* bias, int64_t width,
                                       Wide<T>* dot) {
  for (int64_t row = first_row(); row < a.plan.rows; row += row_step()) {
    Wide<T> sum = 0;
    for (int64_t quad = lane(); 4 * quad < a.units; quad += kWarp) sum += hidden_quad_backward(a, row, quad);
    if (dot == nullptr) continue;
    if (bias != nullptr && a.plan.is_used(row)) {
      const int64_t expert = a.plan.expert_of(row);
      for (int64_t d = lane(); d < width; d += kWarp) {
        sum += widen(of_rows[row * width + d]) * widen(bias[expert * width + d]);
      }
    }
    sum = warp_sum(sum);
    if (lane() == 0) dot[row] = sum;
  }
}

/// A block takes 32 columns of an expert; its 8 lines of threads take every 8th row each.
template <class T>
__global__ void column_sums_kernel(RowPlanView plan, const T* rows, const Wide<T>* scale, int64_t width, Wide<T>* out) {
  constexpr int kLines = kThreads / kWarp;
  __shared__ Wide<T> share[kLines][kWarp];
  const int line = threadIdx.x / kWarp;
  const int64_t n = blockIdx.x * int64_t{kWarp} + lane();
  for (int64_t expert = blockIdx.y; expert < plan.experts; expert += gridDim.y) {
    share[line][lane()] = n < width ? column_sum(plan, rows, scale, width, expert, n, line, kLines) : Wide<T>(0);
    __syncthreads();
    if (line == 0 && n < width) {
      Wide<T> sum = 0;
      for (int i = 0; i < kLines; ++i) sum += share[i][lane()];
      out[expert * width + n] = sum;
    }
    __syncthreads();
  }
}

template <class T>
__global__ void dropout_kernel(const T* x, int64_t count, uint64_t key, uint64_t drop_below, float kept_scale, T* out) {
  const int64_t step = gridDim.x * int64_t{kThreads};
  for (int64_t quad = blockIdx.x * int64_t{kThreads} + threadIdx.x; 4 * quad < count; quad += step) {
    dropout_quad(x, count, key, drop_below, kept_scale, quad, out);
  }
}

}  // namespace

template <class T>
const char* launch_gather(const RowPlanView& plan, const T* x, int64_t width, T* out, CudaStream stream) {
  gather_kernel<<<blocks_for_rows(plan.rows), kThreads, 0, stream>>>(plan, x, width, out);
  return launched();
}

template <class T>
const char* launch_combine(const CombineArguments<T>& arguments, CudaStream stream) {
  combine_kernel<<<blocks_for_rows(arguments.plan.tokens), kThreads, 0, stream>>>(arguments);
  return launched();
}

template <class T>
const char* launch_spread(const SpreadArguments<T>& arguments, CudaStream stream) {
  spread_kernel<<<blocks_for_rows(arguments.plan.rows), kThreads, 0, stream>>>(arguments);
  return launched();
}

template <class T>
const char* launch_hidden(const HiddenArguments<T>& arguments, CudaStream stream) {
  hidden_kernel<<<blocks_for_rows(arguments.plan.rows), kThreads, 0, stream>>>(arguments);
  return launched();
}

template <class T>
const char* launch_hidden_backward(const HiddenArguments<T>& arguments, const T* of_rows, const T* bias, int64_t width,
                                   Wide<T>* dot, CudaStream stream) {
  hidden_backward_kernel<<<blocks_for_rows(arguments.plan.rows), kThreads, 0, stream>>>(arguments, of_rows, bias, width,
                                                                                        dot);
  return launched();
}

template <class T>
const char* launch_column_sums(const RowPlanView& plan, const T* rows, const Wide<T>* scale, int64_t width,
                               Wide<T>* out, CudaStream stream) {
  const dim3 blocks(blocks_for((width + kWarp - 1) / kWarp),
                    static_cast<unsigned>(std::min<int64_t>(std::max<int64_t>(plan.experts, 1), 65535)));
  column_sums_kernel<<<blocks, kThreads, 0, stream>>>(plan, rows, scale, width, out);
  return launched();
}

template <class T>
const char* launch_dropout(const T* x, int64_t count, uint64_t key, uint64_t drop_below, float kept_scale, T* out,
                           CudaStream stream) {
  const int64_t quads = (count + 3) / 4;
  dropout_kernel<<<blocks_for((quads + kThreads - 1) / kThreads), kThreads, 0, stream>>>(x, count, key, drop_below,
                                                                                         kept_scale, out);
  return launched();
}

#define SMOE_INSTANTIATE(T)                                                                                        \
  template const char* launch_gather<T>(const RowPlanView&, const T*, int64_t, T*, CudaStream);                    \
  template const char* launch_combine<T>(const CombineArguments<T>&, CudaStream);                                  \
  template const char* launch_spread<T>(const SpreadArguments<T>&, CudaStream);                                    \
  template const char* launch_hidden<T>(const HiddenArguments<T>&, CudaStream);                                    \
  template const char* launch_hidden_backward<T>(const HiddenArguments<T>&, const T*, const T*, int64_t, Wide<T>*, \
                                                 CudaStream);                                                      \
  template const char* launch_column_sums<T>(const RowPlanView&, const T*, const Wide<T>*, int64_t, Wide<T>*,      \
                                             CudaStream);                                                          \
  template const char* launch_dropout<T>(const T*, int64_t, uint64_t, uint64_t, float, T*, CudaStream);

SMOE_INSTANTIATE(float)
SMOE_INSTANTIATE(double)
SMOE_INSTANTIATE(Bf16)

}  // namespace smoe
