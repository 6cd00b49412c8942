// What a pass through a part of a model takes of memory.
#pragma once

#include <algorithm>

namespace smoe {

/// Bytes beside inputs, parameters and their gradients. Estimates: they follow what the bodies keep and make, not how an
/// allocator lays it out.
struct PassMemory {
  double kept = 0;     ///< what a forward pass with gradient leaves for the backward pass
  double passing = 0;  ///< the most that is there for a moment, in the forward or the backward pass
  double packed = 0;   ///< copies of weights in the order of the kernels, which stay from pass to pass

  /// The two parts one after the other.
  PassMemory& operator+=(const PassMemory& next) {
    kept += next.kept;
    passing = std::max(passing, next.passing);
    packed += next.packed;
    return *this;
  }
};

}  // namespace smoe
