// The time of a call on any device.
#pragma once

#include "bench/samples.h"
#include "smoe/tensor/gpu.h"

namespace smoe::bench {

/// The seconds that a call takes: on a CPU those of one; on a GPU those of one out of several that are given to it at once,
/// as a training step gives it its layers, from when it is idle until it has done all of them.
template <class Call>
double seconds_of_call(c10::Device device, const Call& call) {
  if (device.is_cpu()) return seconds_of(call);
  constexpr int kCalls = 10;
  wait_for(device);
  return seconds_of([&] {
           for (int i = 0; i < kCalls; ++i) call();
           wait_for(device);
         }) /
         kCalls;
}

}  // namespace smoe::bench
