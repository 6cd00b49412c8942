// Each kernel is a walk over elements whose arithmetic is in row_elements.h. Nothing is summed up by atomics: where
// threads share a sum, they add their shares in one fixed order.
#include "smoe/kernels/row_kernels_cuda.h"

#include <type_traits>

#include "smoe/kernels/cuda_threads.h"

namespace smoe {
namespace {

constexpr int kThreads = 256;
constexpr int kLines = kThreads / kWarp;
constexpr int64_t kMaxBlockRows = 65535;

/// The sum over the 32 threads of a warp, in the first of them.
template <class F>
__device__ F warp_sum(F value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += __shfl_down_sync(kAllLanes, value, distance);
  return value;
}

/// Where this lane begins when a warp takes the spans of a row.
template <class T>
__device__ int64_t first_span() {
  return lane() * kSpan<T>;
}

template <class T>
__global__ void gather_kernel(RowPlanView plan, const T* x, int64_t width, T* out) {
  for (int64_t row = first_row(); row < plan.rows; row += row_step()) {
    for (int64_t d = lane(); d < width; d += kWarp) out[row * width + d] = gathered_element(plan, x, width, row, d);
  }
}

/// What lane `from` of the warp has.
template <class T>
__device__ CombineSlot<T> of_lane(const CombineSlot<T>& own, int from) {
  return {__shfl_sync(kAllLanes, own.row, from), __shfl_sync(kAllLanes, own.expert, from),
          __shfl_sync(kAllLanes, own.weight, from)};
}

/// A warp for each token. Its lanes look up a slot each, and then take a span each over all the slots.
template <class T>
__global__ void combine_kernel(CombineArguments<T> a) {
  for (int64_t token = first_row(); token < a.plan.tokens; token += row_step()) {
    for (int64_t whole_warp = 0; whole_warp < a.width; whole_warp += kWarp * kSpan<T>) {
      const int64_t begin = whole_warp + lane() * kSpan<T>;
      Span<T> sum = {};
      for (int64_t first = 0; first < a.plan.slots; first += kWarp) {
        const int64_t count = a.plan.slots - first < kWarp ? a.plan.slots - first : kWarp;
        CombineSlot<T> own = {-1, 0, 0};
        if (lane() < count) own = combine_slot(a, token * a.plan.slots + first + lane());
#pragma unroll 4
        for (int i = 0; i < count; ++i) {
          const CombineSlot<T> slot = of_lane(own, i);
          if (begin < a.width) combine_span(a, slot, begin, sum);
        }
      }
      if (begin < a.width) store_span(a.out + token * a.width, begin, a.width, a.whole, sum);
    }
  }
}

template <class T>
__global__ void spread_kernel(SpreadArguments<T> a) {
  for (int64_t row = first_row(); row < a.plan.rows; row += row_step()) {
    Wide<T> dot = 0;
    for (int64_t begin = first_span<T>(); begin < a.width; begin += kWarp * kSpan<T>) dot += spread_span(a, row, begin);
    dot = warp_sum(dot);
    if (lane() == 0 && a.of_weight != nullptr && a.plan.is_used(row)) a.of_weight[a.plan.slot[row]] = dot;
  }
}

/// Blocks of a multiprocessor that hide how long memory takes, as far as registers last.
template <class T>
constexpr int kHiddenBlocks = sizeof(T) > 4 ? 1 : 4;
template <class T>
constexpr int kHiddenBackwardBlocks = sizeof(T) > 4 ? 1 : 3;

/// For one function, so that the compiler knows it: taken at run time, the choice costs more than the function.
template <class T, GateFunction kFunction, bool kGated>
__global__ void __launch_bounds__(kThreads, kHiddenBlocks<T>) hidden_kernel(HiddenArguments<T> a) {
  a.function = kFunction;
  a.gated = kGated;
  for (int64_t row = first_row(); row < a.plan.rows; row += row_step()) {
    const int64_t expert = a.plan.expert_of(row);
    for (int64_t begin = first_span<T>(); begin < a.units; begin += kWarp * kSpan<T>)
      hidden_span(a, row, expert, begin);
  }
}

template <class T, GateFunction kFunction, bool kGated>
__global__ void __launch_bounds__(kThreads, kHiddenBackwardBlocks<T>)
    hidden_backward_kernel(HiddenArguments<T> a, const T* of_rows, Biases<T> bias, int64_t width, bool whole,
                           Wide<T>* dot) {
  a.function = kFunction;
  a.gated = kGated;
  for (int64_t row = first_row(); row < a.plan.rows; row += row_step()) {
    const bool used = a.plan.is_used(row);
    const int64_t expert = used ? a.plan.expert_of(row) : 0;
    Wide<T> sum = 0;
    for (int64_t begin = first_span<T>(); begin < a.units; begin += kWarp * kSpan<T>) {
      sum += hidden_span_backward(a, row, expert, begin);
    }
    if (dot == nullptr) continue;
    for (int64_t begin = first_span<T>(); used && bias.are_given() && begin < width; begin += kWarp * kSpan<T>) {
      const Span<T> of_row = load_span(of_rows + row * width, begin, width, whole);
      Span<T> added = {};
      bias.add_to(added, expert, begin, width);
      for (int64_t i = 0; i < kSpan<T>; ++i) sum += of_row.at[i] * added.at[i];
    }
    sum = warp_sum(sum);
    if (lane() == 0) dot[row] = sum;
  }
}

template <class F>
__global__ void weight_of_rows_kernel(RowPlanView plan, const F* weight, F* out) {
  for (int64_t row = first_thread(); row < plan.rows; row += thread_step()) {
    out[row] = plan.is_used(row) ? weight[plan.slot[row]] : F(0);
  }
}

template <class F>
__global__ void slots_of_rows_kernel(RowPlanView plan, const F* value, F* out) {
  for (int64_t row = first_thread(); row < plan.rows; row += thread_step()) {
    if (plan.is_used(row)) out[plan.slot[row]] = value[row];
  }
}

/// A block takes the columns of a warp's spans, of an expert; of its rows every `pieces`th eight. Its 8 lines of threads
/// take a row each.
template <class T>
__global__ void column_sums_kernel(ColumnSumsArguments<T> a) {
  __shared__ Span<T> share[kLines][kWarp];
  const int line = threadIdx.x / kWarp;
  const int64_t n = (blockIdx.x * int64_t{kWarp} + lane()) * kSpan<T>, piece = blockIdx.z, pieces = gridDim.z;
  for (int64_t expert = blockIdx.y; expert < a.plan.experts; expert += gridDim.y) {
    share[line][lane()] = n < a.width ? column_sums_span(a.plan, a.rows, a.scale, a.width, a.whole, expert, n,
                                                         piece * kLines + line, pieces * kLines)
                                      : Span<T>{};
    __syncthreads();
    if (line == 0) {
      Wide<T>* out = a.out + (piece * a.plan.experts + expert) * a.width;
      for (int64_t i = 0; i < kSpan<T> && n + i < a.width; ++i) {
        Wide<T> sum = 0;
        for (int other = 0; other < kLines; ++other) sum += share[other][lane()].at[i];
        out[n + i] = sum;
      }
    }
    __syncthreads();
  }
}

/// The matrices [N, D] of experts without rows become zero; a block row for each expert.
template <class T>
__global__ void zero_empty_kernel(const int32_t* offsets, int64_t experts, int64_t size, T* matrices) {
  for (int64_t expert = blockIdx.y; expert < experts; expert += gridDim.y) {
    if (offsets[expert] != offsets[expert + 1]) continue;
    for (int64_t i = first_thread(); i < size; i += thread_step()) matrices[expert * size + i] = T{};
  }
}

template <class T>
__global__ void dropout_kernel(const T* x, int64_t count, uint64_t key, uint64_t drop_below, float kept_scale, T* out) {
  for (int64_t quad = first_thread(); 4 * quad < count; quad += thread_step()) {
    dropout_quad(x, count, key, drop_below, kept_scale, quad, out);
  }
}

/// Calls f with the function and whether it is gated as constants.
template <class T, class F>
void with_function(const HiddenArguments<T>& a, const F& f) {
  const auto with = [&](auto function) {
    if (a.gated) {
      f(function, std::true_type());
    } else {
      f(function, std::false_type());
    }
  };
  switch (a.function) {
    case GateFunction::kRelu: return with(std::integral_constant<GateFunction, GateFunction::kRelu>());
    case GateFunction::kGelu: return with(std::integral_constant<GateFunction, GateFunction::kGelu>());
    case GateFunction::kGeluTanh: return with(std::integral_constant<GateFunction, GateFunction::kGeluTanh>());
    default: return with(std::integral_constant<GateFunction, GateFunction::kSilu>());
  }
}

}  // namespace

template <class T>
const char* launch_gather(const RowPlanView& plan, const T* x, int64_t width, T* out, CudaStream stream) {
  gather_kernel<<<blocks_for(plan.rows * kWarp, kThreads), kThreads, 0, stream>>>(plan, x, width, out);
  return launched();
}

template <class T>
const char* launch_combine(const CombineArguments<T>& arguments, CudaStream stream) {
  combine_kernel<<<blocks_for(arguments.plan.tokens * kWarp, kThreads), kThreads, 0, stream>>>(arguments);
  return launched();
}

template <class T>
const char* launch_spread(const SpreadArguments<T>& arguments, CudaStream stream) {
  spread_kernel<<<blocks_for(arguments.plan.rows * kWarp, kThreads), kThreads, 0, stream>>>(arguments);
  return launched();
}

template <class T>
const char* launch_hidden(const HiddenArguments<T>& arguments, CudaStream stream) {
  with_function(arguments, [&](auto function, auto gated) {
    hidden_kernel<T, decltype(function)::value, decltype(gated)::value>
        <<<blocks_for(arguments.plan.rows * kWarp, kThreads), kThreads, 0, stream>>>(arguments);
  });
  return launched();
}

template <class T>
const char* launch_hidden_backward(const HiddenArguments<T>& arguments, const T* of_rows, const Biases<T>& bias,
                                   int64_t width, bool whole, Wide<T>* dot, CudaStream stream) {
  with_function(arguments, [&](auto function, auto gated) {
    hidden_backward_kernel<T, decltype(function)::value, decltype(gated)::value>
        <<<blocks_for(arguments.plan.rows * kWarp, kThreads), kThreads, 0, stream>>>(arguments, of_rows, bias, width,
                                                                                     whole, dot);
  });
  return launched();
}

template <class F>
const char* launch_weight_of_rows(const RowPlanView& plan, const F* weight, F* out, CudaStream stream) {
  weight_of_rows_kernel<<<blocks_for(plan.rows, kThreads), kThreads, 0, stream>>>(plan, weight, out);
  return launched();
}

template <class F>
const char* launch_slots_of_rows(const RowPlanView& plan, const F* value, F* out, CudaStream stream) {
  slots_of_rows_kernel<<<blocks_for(plan.rows, kThreads), kThreads, 0, stream>>>(plan, value, out);
  return launched();
}

template <class T>
const char* launch_column_sums(const ColumnSumsArguments<T>& arguments, int64_t pieces, CudaStream stream) {
  const dim3 blocks(blocks_for(arguments.width, kWarp * kSpan<T>),
                    static_cast<unsigned>(std::clamp<int64_t>(arguments.plan.experts, 1, kMaxBlockRows)),
                    static_cast<unsigned>(pieces));
  column_sums_kernel<<<blocks, kThreads, 0, stream>>>(arguments);
  return launched();
}

template <class T>
const char* launch_zero_empty(const int32_t* offsets, int64_t experts, int64_t size, T* matrices, CudaStream stream) {
  constexpr int64_t kBlocksOfAnExpert = 64;
  const dim3 blocks(static_cast<unsigned>(std::min<int64_t>(blocks_for(size, kThreads), kBlocksOfAnExpert)),
                    static_cast<unsigned>(std::clamp<int64_t>(experts, 1, kMaxBlockRows)));
  zero_empty_kernel<<<blocks, kThreads, 0, stream>>>(offsets, experts, size, matrices);
  return launched();
}

template <class T>
const char* launch_dropout(const T* x, int64_t count, uint64_t key, uint64_t drop_below, float kept_scale, T* out,
                           CudaStream stream) {
  dropout_kernel<<<blocks_for((count + 3) / 4, kThreads), kThreads, 0, stream>>>(x, count, key, drop_below, kept_scale,
                                                                                 out);
  return launched();
}

#define SMOE_INSTANTIATE(T)                                                                                            \
  template const char* launch_gather<T>(const RowPlanView&, const T*, int64_t, T*, CudaStream);                        \
  template const char* launch_combine<T>(const CombineArguments<T>&, CudaStream);                                      \
  template const char* launch_spread<T>(const SpreadArguments<T>&, CudaStream);                                        \
  template const char* launch_hidden<T>(const HiddenArguments<T>&, CudaStream);                                        \
  template const char* launch_hidden_backward<T>(const HiddenArguments<T>&, const T*, const Biases<T>&, int64_t, bool, \
                                                 Wide<T>*, CudaStream);                                                \
  template const char* launch_column_sums<T>(const ColumnSumsArguments<T>&, int64_t, CudaStream);                      \
  template const char* launch_zero_empty<T>(const int32_t*, int64_t, int64_t, T*, CudaStream);                         \
  template const char* launch_dropout<T>(const T*, int64_t, uint64_t, uint64_t, float, T*, CudaStream);

SMOE_INSTANTIATE(float)
SMOE_INSTANTIATE(double)
SMOE_INSTANTIATE(Bf16)
template const char* launch_gather<Chunk>(const RowPlanView&, const Chunk*, int64_t, Chunk*, CudaStream);
template const char* launch_weight_of_rows<float>(const RowPlanView&, const float*, float*, CudaStream);
template const char* launch_weight_of_rows<double>(const RowPlanView&, const double*, double*, CudaStream);
template const char* launch_slots_of_rows<float>(const RowPlanView&, const float*, float*, CudaStream);
template const char* launch_slots_of_rows<double>(const RowPlanView&, const double*, double*, CudaStream);

}  // namespace smoe
