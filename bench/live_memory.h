// How much memory LibTorch's tensors take while something runs.
#pragma once

#include <c10/util/ThreadLocalDebugInfo.h>

#include <cstdint>
#include <memory>

namespace smoe::bench {

/// Counts the bytes of tensors that the calling thread takes and gives back while this object lives, as LibTorch's CPU
/// allocator reports them to profilers. Tensors made before must not be freed meanwhile. What kernels take for their own
/// threads (tiles in the cache) is not a tensor and not counted.
class LiveMemory {
 public:
  LiveMemory();
  ~LiveMemory();
  LiveMemory(const LiveMemory&) = delete;
  LiveMemory& operator=(const LiveMemory&) = delete;

  /// Bytes taken and not given back since the beginning, now and at most.
  int64_t now() const;
  int64_t peak() const;

 private:
  class Counter;
  std::shared_ptr<Counter> counter_;
  std::unique_ptr<c10::DebugInfoGuard> guard_;
};

}  // namespace smoe::bench
