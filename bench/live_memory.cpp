#include "bench/live_memory.h"

#include <c10/core/Allocator.h>

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

LiveMemory::LiveMemory()
    : counter_(std::make_shared<Counter>()),
      guard_(std::make_unique<c10::DebugInfoGuard>(c10::DebugInfoKind::PROFILER_STATE, counter_)) {}

LiveMemory::~LiveMemory() = default;

int64_t LiveMemory::now() const { return counter_->now; }
int64_t LiveMemory::peak() const { return counter_->peak; }

}  // namespace smoe::bench
