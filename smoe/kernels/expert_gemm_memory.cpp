// How much memory expert_gemm takes: the tensors of expert_gemm.cpp and of its bodies on a CPU, added up.
#include <c10/core/ScalarType.h>

#include "smoe/kernels/block_gemm.h"
#include "smoe/kernels/expert_gemm.h"
#include "smoe/kernels/kernel_choice.h"
#include "smoe/kernels/packed_weights.h"

namespace smoe {

PassMemory expert_gemm_memory(const at::Tensor& w, int64_t rows, at::ScalarType type, bool training) {
  const int64_t E = w.size(0), N = w.size(1), D = w.size(2);
  const auto size = static_cast<double>(c10::elementSize(type));
  const double input = static_cast<double>(rows * D) * size, output = static_cast<double>(rows * N) * size;
  PassMemory memory{.kept = 0, .passing = input + output, .packed = 0};
  if (training) {
    memory.kept = input;
    memory.passing += static_cast<double>(w.numel()) * static_cast<double>(w.element_size());
  }
  const bool blocks = has_block_gemm(type) && in_pairs(type, N) && in_pairs(type, D);
  if (reference_kernels_forced() || !blocks) return memory;
  memory.packed = packed_bytes(E, 1, D, N, type);
  if (training) memory.packed += packed_bytes(E, 1, N, D, type);
  return memory;
}

}  // namespace smoe
