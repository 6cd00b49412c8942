// The CUDA kernels for rows grouped by expert, launched on a stream; without LibTorch, whose tensors row_kernels_cuda.cpp
// takes apart. Each returns null, or CUDA's words for why it could not be launched.
#pragma once

#include "smoe/kernels/row_elements.h"

struct CUstream_st;  // what CUDA's cudaStream_t points to

namespace smoe {

using CudaStream = CUstream_st*;

/// Rows of T, or of the Chunks that they are.
template <class T>
const char* launch_gather(const RowPlanView& plan, const T* x, int64_t width, T* out, CudaStream stream);

template <class T>
const char* launch_combine(const CombineArguments<T>& arguments, CudaStream stream);

template <class T>
const char* launch_spread(const SpreadArguments<T>& arguments, CudaStream stream);

template <class T>
const char* launch_hidden(const HiddenArguments<T>& arguments, CudaStream stream);

/// dot [R] may be null where arguments.through is. With `bias` [E, D] and the gradient of the output's rows, `of_rows`
/// [R, D], which are `whole` or not (load_span), dot also gets ⟨of_rows[r], bias of its expert⟩.
template <class T>
const char* launch_hidden_backward(const HiddenArguments<T>& arguments, const T* of_rows, const Biases<T>& bias,
                                   int64_t width, bool whole, Wide<T>* dot, CudaStream stream);

/// out [R]: the weight [T, K] of each row's slot, 0 for a row that stands for none.
template <class F>
const char* launch_weight_of_rows(const RowPlanView& plan, const F* weight, F* out, CudaStream stream);

/// out [T, K], zero before: at each row's slot its value [R].
template <class F>
const char* launch_slots_of_rows(const RowPlanView& plan, const F* value, F* out, CudaStream stream);

template <class T>
struct ColumnSumsArguments {
  RowPlanView plan;      ///< only its offsets and experts
  const T* rows;         ///< [R, N]
  const Wide<T>* scale;  ///< [R], or null for ones
  int64_t width;         ///< N
  bool whole;            ///< of the rows (load_span)
  Wide<T>* out;          ///< [pieces, E, N]
};

/// Σ of each expert's rows, each times its scale, in so many pieces that are still to be added.
template <class T>
const char* launch_column_sums(const ColumnSumsArguments<T>& arguments, int64_t pieces, CudaStream stream);

/// The matrices [E, size] of the experts whose groups are empty become zero.
template <class T>
const char* launch_zero_empty(const int32_t* offsets, int64_t experts, int64_t size, T* matrices, CudaStream stream);

template <class T>
const char* launch_dropout(const T* x, int64_t count, uint64_t key, uint64_t drop_below, float kept_scale, T* out,
                           CudaStream stream);

}  // namespace smoe
