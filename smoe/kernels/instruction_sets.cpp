#include "smoe/kernels/instruction_sets.h"

#include <cstdlib>
#include <string>

namespace smoe {

#if defined(__x86_64__)
namespace {

bool is_forbidden(bool avx512) {
  static const std::string kMost = [] {
    const char* set = std::getenv("ATEN_CPU_CAPABILITY");
    return std::string(set == nullptr ? "" : set);
  }();
  return kMost == "default" || (avx512 && kMost == "avx2");
}

}  // namespace

bool processor_has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx2() { return processor_has_avx2() && !is_forbidden(/*avx512=*/false); }

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && !is_forbidden(/*avx512=*/true);
}
#endif

}  // namespace smoe
