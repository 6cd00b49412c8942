#include <ATen/Context.h>
#include <ATen/cuda/CUDAContext.h>

#include "smoe/tensor/gpu.h"

namespace smoe {

std::string gpu_name() { return at::hasCUDA() ? at::cuda::getCurrentDeviceProperties()->name : ""; }

}  // namespace smoe
