// The CUDA kernels for rows grouped by expert, launched on a stream; without LibTorch, whose tensors row_kernels_cuda.cpp
// takes apart. Each returns null, or CUDA's words for why it could not be launched.
#pragma once

#include "smoe/kernels/row_elements.h"

struct CUstream_st;  // what CUDA's cudaStream_t points to

namespace smoe {

using CudaStream = CUstream_st*;

template <class T>
const char* launch_gather(const RowPlanView& plan, const T* x, int64_t width, T* out, CudaStream stream);

template <class T>
const char* launch_combine(const CombineArguments<T>& arguments, CudaStream stream);

template <class T>
const char* launch_spread(const SpreadArguments<T>& arguments, CudaStream stream);

template <class T>
const char* launch_hidden(const HiddenArguments<T>& arguments, CudaStream stream);

/// dot [R] may be null where arguments.through is. With `bias` [E, D] and the gradient of the output's rows, `of_rows`
/// [R, D], dot also gets ⟨of_rows[r], bias of its expert⟩.
template <class T>
const char* launch_hidden_backward(const HiddenArguments<T>& arguments, const T* of_rows, const T* bias, int64_t width,
                                   Wide<T>* dot, CudaStream stream);

/// out [E, N] = Σ of the rows of each expert, each times its scale where that is not null.
template <class T>
const char* launch_column_sums(const RowPlanView& plan, const T* rows, const Wide<T>* scale, int64_t width,
                               Wide<T>* out, CudaStream stream);

template <class T>
const char* launch_dropout(const T* x, int64_t count, uint64_t key, uint64_t drop_below, float kept_scale, T* out,
                           CudaStream stream);

}  // namespace smoe
