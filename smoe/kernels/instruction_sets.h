// Which of the instruction sets that files are compiled for (cmake/smoe_instruction_sets.cmake) are to be used.
#pragma once

namespace smoe {

#if defined(__x86_64__)  // elsewhere files of those suffixes are not compiled
/// Whether this processor has AVX2 with FMA.
bool processor_has_avx2();

/// Whether it has them, and AVX-512 (F, BW, DQ, VL), and LibTorch's own variable of the environment does not say to do
/// without: ATEN_CPU_CAPABILITY=default allows neither, avx2 the first. Read once.
bool has_avx2();
bool has_avx512();
#endif

}  // namespace smoe
