// How much memory LibTorch's tensors take while something runs.
#pragma once

#include <c10/core/Device.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <cstdint>
#include <memory>

namespace smoe::bench {

/// Counts the bytes of tensors on a device that are taken and given back while this object lives: on a CPU those that the
/// calling thread takes, as LibTorch's allocator reports them to profilers, on a GPU all, as its allocator counts them
/// itself. Tensors made before must not be freed meanwhile. What kernels take for their own threads (tiles in the cache) is
/// not a tensor and not counted.
class LiveMemory {
 public:
  explicit LiveMemory(c10::Device device);
  ~LiveMemory();
  LiveMemory(const LiveMemory&) = delete;
  LiveMemory& operator=(const LiveMemory&) = delete;

  /// Bytes taken and not given back since the beginning, now and at most.
  int64_t now() const;
  int64_t peak() const;

 private:
  class Counter;
  c10::Device device_;
  int64_t before_ = 0;  // on a GPU
  std::shared_ptr<Counter> counter_;
  std::unique_ptr<c10::DebugInfoGuard> guard_;
};

}  // namespace smoe::bench
