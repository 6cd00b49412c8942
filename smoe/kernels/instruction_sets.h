// Which of the instruction sets that files are compiled for (cmake/smoe_instruction_sets.cmake) this processor has.
#pragma once

namespace smoe {

#if defined(__x86_64__)  // elsewhere files of those suffixes are not compiled
inline bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

inline bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

}  // namespace smoe
