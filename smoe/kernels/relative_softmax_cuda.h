// relative_softmax on a GPU, launched on a stream; without LibTorch. Each function returns null, or CUDA's words for why it
// could not be launched.
#pragma once

#include "smoe/kernels/relative_softmax_elements.h"
#include "smoe/kernels/row_kernels_cuda.h"

namespace smoe {

template <class T>
const char* launch_relative_softmax(const RelativeSoftmaxArguments<T>& arguments, CudaStream stream);

template <class T>
const char* launch_relative_softmax_backward(const RelativeSoftmaxArguments<T>& arguments, CudaStream stream);

}  // namespace smoe
