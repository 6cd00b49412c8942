// The processor that a measurement was made on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace smoe::bench {

/// Sizes of the first processor's caches in bytes, as the system tells them; 0 where it does not.
struct Caches {
  int64_t l1 = 0, l2 = 0, l3 = 0;
};
Caches caches();

/// Bytes of main memory.
int64_t physical_memory();

/// {"cpu": the model's name, "features": the instruction sets that kernels here may use, "cores", "caches",
/// "memory_bytes", "gpu": the name or null, "libtorch"}.
nlohmann::ordered_json machine();

}  // namespace smoe::bench
