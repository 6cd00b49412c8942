// How much memory moe_mlp takes: the tensors of moe_mlp_cpu_forward.cpp, moe_mlp_cpu_backward.cpp, moe_mlp_grouped.cpp
// and moe_mlp_reference.cpp, added up.
#include <c10/core/ScalarType.h>

#include <algorithm>
#include <cmath>

#include "smoe/kernels/block_gemm.h"
#include "smoe/kernels/kernel_choice.h"
#include "smoe/kernels/moe_mlp_cpu.h"
#include "smoe/kernels/packed_weights.h"

namespace smoe {
namespace {

/// The sizes of a call, as numbers whose products do not overflow.
struct Sizes {
  double T, K, E, D, H, rows, bytes;  // `rows` of w1: H or 2 H; `bytes` of an element in products

  double hidden() const { return T * K * rows * bytes; }
};

PassMemory memory_of_cpu_body(const Sizes& n, double packed, bool training) {
  PassMemory memory{.kept = 0, .passing = 0, .packed = packed};
  const double sum = 4 * n.T * n.D, rounded = n.bytes < 4 ? n.bytes * n.T * n.D : 0;
  const ForwardLoad load{
      .tokens = n.T, .rows = n.T * n.K, .experts = n.E, .D = n.D, .H = n.H, .w1_rows = n.rows, .bytes = n.bytes};
  const double forward = sum + 2 * rounded + (threads_share_columns(load) ? load.between() : 0);
  memory.passing = forward;
  if (!training) return memory;
  memory.kept = n.hidden() + rounded;  // … and x in the type of products, where that is a copy
  // A row of the gradient of x for each assignment, and for each slice where few experts share all rows (kPieces).
  const double pieces = std::clamp(std::floor(8 / n.E), 1.0, std::ceil(n.H / 64));
  memory.passing = std::max(forward, 4 * n.T * n.K * pieces * n.D + sum + 2 * rounded);
  return memory;
}

PassMemory memory_of_grouped_body(const Sizes& n, bool training) {
  // Rows of whole tiles, gathered and as they come out; what the forward pass leaves is before the activation.
  const double rows = n.T * n.K + n.E * (kGroupedAlign - 1);
  const double row = rows * n.D * n.bytes, before = rows * n.rows * n.bytes, after = rows * n.H * n.bytes;
  const double forward = row + after + n.T * n.D * n.bytes;
  if (!training) return {.kept = 0, .passing = forward + before, .packed = 0};
  // Going back: the gathered gradient, its way through the second matrix, and the gradient before the activation.
  return {.kept = before, .passing = std::max(forward, row + 2 * after + before), .packed = 0};
}

PassMemory memory_of_plain_body(const Sizes& n, bool training) {
  // Gathered rows, outputs and their concatenation; a second hidden tensor after the activation. The backward pass makes
  // the forward pass again, and stacks the gradients of each expert's matrices.
  const double row = n.T * n.K * n.D * n.bytes, hidden = n.hidden();
  const double weights = n.E * (n.rows + n.H) * n.D * n.bytes;
  const double forward = 4 * row + 2 * hidden;
  return {.kept = 0, .passing = training ? forward + 2 * row + 2 * hidden + weights : forward, .packed = 0};
}

}  // namespace

PassMemory moe_mlp_memory(const MlpWeights& weights, int64_t tokens, double slots, Activation activation,
                          at::ScalarType type, bool training) {
  const int64_t rows = weights.w1.size(1), D = weights.w1.size(2), H = weights.w2.size(2);
  const Sizes sizes{.T = static_cast<double>(tokens),
                    .K = slots,
                    .E = static_cast<double>(weights.w1.size(0)),
                    .D = static_cast<double>(D),
                    .H = static_cast<double>(H),
                    .rows = static_cast<double>(rows),
                    .bytes = static_cast<double>(c10::elementSize(type))};
  if (forced_kernels() == KernelChoice::kGrouped) return memory_of_grouped_body(sizes, training);
  if (reference_kernels_forced() || !moe_mlp_cpu_takes(type, H, activation)) {
    return memory_of_plain_body(sizes, training);
  }
  double packed = packed_bytes(weights.w1.size(0), is_gated(activation) ? 2 : 1, D, rows, type) +
                  packed_bytes(weights.w1.size(0), 1, H, D, type);
  if (training) {
    packed += packed_bytes(weights.w1.size(0), 1, rows, D, type) + packed_bytes(weights.w1.size(0), 1, D, H, type);
  }
  return memory_of_cpu_body(sizes, packed, training);
}

}  // namespace smoe
