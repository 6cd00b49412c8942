// In builds without CUDA.
#include "smoe/tensor/gpu.h"

namespace smoe {

std::string gpu_name() { return ""; }

}  // namespace smoe
