#include "smoe/tensor/gpu.h"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace smoe {

void wait_for(c10::Device device) {
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  guard.synchronizeDevice(device.has_index() ? device.index() : guard.getDevice().index());
}

}  // namespace smoe
