// A warp for each row: it goes over the row twice, once for the sum and once to write, and meets it in the cache the second
// time.
#include "smoe/kernels/relative_softmax_cuda.h"

#include "smoe/kernels/cuda_threads.h"

namespace smoe {
namespace {

constexpr int kThreads = 128;

/// Of all lanes' shares, in every lane, in one order.
template <class F>
__device__ SumOfExponentials<F> sum_of_lanes(SumOfExponentials<F> own) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    own.add(SumOfExponentials<F>{__shfl_down_sync(kAllLanes, own.largest, distance),
                                 __shfl_down_sync(kAllLanes, own.sum, distance)});
  }
  return {__shfl_sync(kAllLanes, own.largest, 0), __shfl_sync(kAllLanes, own.sum, 0)};
}

template <class T>
__global__ void relative_softmax_kernel(RelativeSoftmaxArguments<T> a) {
  for (int64_t row = first_row(); row < a.rows; row += row_step()) {
    const int64_t first = a.first_key(row), end = a.end_key(row);
    SumOfExponentials<Wide<T>> sum{0, 0};
    for (int64_t key = first + lane(); key < end; key += kWarp) sum.add(a.score(row, key));
    sum = sum_of_lanes(sum);
    const Wide<T> one_over = 1 / sum.sum;
    for (int64_t key = lane(); key < a.length; key += kWarp) {
      const bool visible = key >= first && key < end;
      a.probability[row * a.length + key] =
          visible ? narrow<T>(exp_of(a.score(row, key) - sum.largest) * one_over) : T{};
    }
  }
}

template <class T>
__global__ void relative_softmax_backward_kernel(RelativeSoftmaxArguments<T> a) {
  for (int64_t row = first_row(); row < a.rows; row += row_step()) {
    Wide<T> dot = 0;
    for (int64_t key = a.first_key(row) + lane(); key < a.end_key(row); key += kWarp) {
      const int64_t at = row * a.length + key;
      dot += widen(a.probability[at]) * widen(a.of_probability[at]);
    }
    for (int distance = kWarp / 2; distance > 0; distance /= 2) dot += __shfl_down_sync(kAllLanes, dot, distance);
    dot = __shfl_sync(kAllLanes, dot, 0);
    for (int64_t key = lane(); key < a.length; key += kWarp) {
      a.of_content[row * a.length + key] = a.of_score(row, key, dot);
      a.of_relative[row * a.length + key] = a.of_score(row, key - a.shift(row), dot);
    }
  }
}

}  // namespace

template <class T>
const char* launch_relative_softmax(const RelativeSoftmaxArguments<T>& arguments, CudaStream stream) {
  relative_softmax_kernel<<<blocks_for(arguments.rows * kWarp, kThreads), kThreads, 0, stream>>>(arguments);
  return launched();
}

template <class T>
const char* launch_relative_softmax_backward(const RelativeSoftmaxArguments<T>& arguments, CudaStream stream) {
  relative_softmax_backward_kernel<<<blocks_for(arguments.rows * kWarp, kThreads), kThreads, 0, stream>>>(arguments);
  return launched();
}

#define SMOE_INSTANTIATE(T)                                                                        \
  template const char* launch_relative_softmax<T>(const RelativeSoftmaxArguments<T>&, CudaStream); \
  template const char* launch_relative_softmax_backward<T>(const RelativeSoftmaxArguments<T>&, CudaStream);

SMOE_INSTANTIATE(float)
SMOE_INSTANTIATE(double)
SMOE_INSTANTIATE(Bf16)

}  // namespace smoe
