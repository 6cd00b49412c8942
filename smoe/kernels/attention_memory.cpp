// How much memory attention takes: the tensors of attention_cpu.cpp and of the plain body in attention.cpp, added up.
#include <c10/core/ScalarType.h>

#include <cmath>

#include "smoe/kernels/attention.h"
#include "smoe/kernels/block_gemm.h"
#include "smoe/kernels/kernel_choice.h"

namespace smoe {

PassMemory relative_attention_memory(const AttentionSizes& sizes, at::ScalarType type, bool dropout, bool training) {
  const auto bytes = static_cast<double>(c10::elementSize(type));
  const auto B = static_cast<double>(sizes.batch), S = static_cast<double>(sizes.segment),
             L = static_cast<double>(sizes.length);
  const auto N = static_cast<double>(sizes.heads), inner = N * static_cast<double>(sizes.head_width);
  const double query = bytes * B * S * inner, key_value = bytes * 2 * B * L * inner, position = bytes * L * inner;
  const double inputs = query + key_value + position, log_sum = 4 * N * B * S;
  if (!reference_kernels_forced() && has_block_gemm(type)) {
    if (!training) return {.kept = 0, .passing = inputs + query + log_sum, .packed = 0};
    const double of_places = 4 * N * B * std::ceil(L / 64) * 64 * static_cast<double>(sizes.head_width);
    return {.kept = inputs + query + log_sum, .passing = inputs + query + of_places, .packed = 0};
  }
  // Scores, their shifted half, what is masked, probabilities: [N·B, S, L] each, in fp32 at least.
  const double scores = std::max(4.0, bytes) * N * B * S * L, copies = 2 * query + key_value;
  if (!training) return {.kept = 0, .passing = inputs + copies + 5 * scores, .packed = 0};
  const double rounded = bytes < 4 ? bytes / 4 * scores : 0;
  const double probabilities = scores * (dropout ? 2 : 1) + rounded;
  return {.kept = inputs + copies + query + probabilities, .passing = 4 * scores, .packed = 0};
}

}  // namespace smoe
