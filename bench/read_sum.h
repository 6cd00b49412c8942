// Reading memory as fast as the processor can: a sum of whole vectors.
#pragma once

#include <cstdint>

namespace smoe::bench {

/// Bytes that read_sum takes at once; sizes are multiples of it.
inline constexpr int64_t kReadStep = 512;

/// The sum modulo 2⁶⁴ of the 64-bit words of `bytes` bytes (a multiple of kReadStep) at `data`, with the widest vectors
/// that the processor has; fastest where `data` is aligned to 64.
uint64_t read_sum(const void* data, int64_t bytes);

}  // namespace smoe::bench
