#include "smoe/tensor/gpu.h"

#include <ATen/Context.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "smoe/base/error.h"
#include "smoe/tensor/torch_compat.h"

namespace smoe {

void require_device(const std::string& device, const std::string& what) {
  require(device == "cpu" || at::hasCUDA(), what, ": LibTorch ", libtorch_version(),
          " sees no CUDA device; take cpu, or build against a CUDA LibTorch (CMAKE_PREFIX_PATH)");
}

void wait_for(c10::Device device) {
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  guard.synchronizeDevice(device.has_index() ? device.index() : guard.getDevice().index());
}

}  // namespace smoe
