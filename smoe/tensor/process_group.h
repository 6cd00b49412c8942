// One process or many: whatever reads data or adds up statistics asks this.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace smoe {

/// The processes that train one model together. The base class is a group of one.
class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;
  virtual int64_t rank() const { return 0; }
  virtual int64_t size() const { return 1; }
  /// Replaces `values` by their sum over all ranks, on every rank.
  virtual void all_reduce_sum(at::Tensor& values) const { (void)values; }
};

}  // namespace smoe
