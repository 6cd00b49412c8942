// In builds without our CUDA kernels.
#include "smoe/base/error.h"
#include "smoe/kernels/relative_softmax.h"

namespace smoe {

at::Tensor relative_softmax(const at::Tensor&, const at::Tensor&, double, int64_t) {
  throw Failure("this build has no CUDA kernels of its own");
}

}  // namespace smoe
