#include "bench/live_memory.h"

#include <ATen/Context.h>
#include <c10/core/Allocator.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>

namespace smoe::bench {

class LiveMemory::Counter : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t change, size_t, size_t, c10::Device) override {
    now += change;
    peak = std::max(peak, now);
  }
  bool memoryProfilingEnabled() const override { return true; }

  int64_t now = 0, peak = 0;
};

namespace {

c10::CachingDeviceAllocator::Stat gpu_bytes(c10::Device device) {
  using c10::CachingAllocator::StatType;
  return c10::getDeviceAllocator(device.type())
      ->getDeviceStats(device.index())
      .allocated_bytes[static_cast<size_t>(StatType::AGGREGATE)];
}

}  // namespace

LiveMemory::LiveMemory(c10::Device device) : device_(device) {
  if (device.is_cpu()) {
    counter_ = std::make_shared<Counter>();
    guard_ = std::make_unique<c10::DebugInfoGuard>(c10::DebugInfoKind::PROFILER_STATE, counter_);
  } else {
    at::globalContext().lazyInitDevice(device.type());  // without which there are no statistics
    c10::getDeviceAllocator(device.type())->resetPeakStats(device.index());
    before_ = gpu_bytes(device).current;
  }
}

LiveMemory::~LiveMemory() = default;

int64_t LiveMemory::now() const { return counter_ ? counter_->now : gpu_bytes(device_).current - before_; }
int64_t LiveMemory::peak() const { return counter_ ? counter_->peak : gpu_bytes(device_).peak - before_; }

}  // namespace smoe::bench
