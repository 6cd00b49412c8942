// What is asked of a GPU beside computing.
#pragma once

#include <c10/core/Device.h>

#include <string>

namespace smoe {

/// The name of the GPU that LibTorch computes on ("NVIDIA H100 80GB HBM3"); empty where there is none, or where the build
/// has no CUDA.
std::string gpu_name();

/// Throws UserError where `device`, cpu or cuda, is not there; `what` says who asks for it ("--device cuda").
void require_device(const std::string& device, const std::string& what);

/// Waits until a device has done all that it was given; a CPU has.
void wait_for(c10::Device device);

}  // namespace smoe
