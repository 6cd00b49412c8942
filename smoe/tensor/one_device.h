// Tensors of one call.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>

#include "smoe/base/error.h"

namespace smoe {

/// Throws UserError where the tensors, those that are defined, are not all on the first one's device: memory of another
/// one is no address there, and the meta device has none at all.
inline void require_one_device(const char* what, std::initializer_list<const at::Tensor*> tensors) {
  const c10::Device device = (*tensors.begin())->device();
  for (const at::Tensor* each : tensors) {
    require(!each->defined() || each->device() == device, what, ": all tensors must be on one device, got ", device,
            " and ", each->defined() ? each->device() : device);
  }
}

}  // namespace smoe
