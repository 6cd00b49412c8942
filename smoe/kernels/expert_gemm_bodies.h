// The bodies of expert_gemm and of its gradients, which agree to rounding. Groups are [offsets[e], offsets[e + 1]); rows
// past the last group come out arbitrary. No autograd.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace smoe {

enum class GemmBody {
  kPlain,    ///< LibTorch's products, expert by expert: any device, any floating dtype
  kBlocks,   ///< a CPU's block microkernels: fp32 and bf16
  kGrouped,  ///< at::_grouped_mm: bf16, on a CPU also fp32; all experts in one call
};

/// The fastest body for products of rows with w [E, N, D], or the one that SMOE_KERNEL asks for where it can.
GemmBody choose_gemm_body(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w);

/// The offsets on the CPU; waits for a GPU. Throws UserError where they do not ascend from 0 to at most `rows`.
std::vector<int64_t> offsets_on_cpu(const at::Tensor& offsets, int64_t rows);

/// What stands past the last group becomes zero.
void zero_past_the_last_group(at::Tensor& out, const at::Tensor& offsets);

/// Adds to each row [R, N] the bias [E, N] of its expert, in place; undefined: nothing.
void add_expert_bias(at::Tensor& rows, const at::Tensor& bias, const at::Tensor& offsets);

/// rows [R, D] · w[e]ᵀ + bias[e] → [R, N] in the dtype of rows; bias may be undefined.
at::Tensor expert_products(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w,
                           const at::Tensor& bias, GemmBody body);
/// gradient [R, N] · w[e] → [R, D] in the dtype of gradient.
at::Tensor expert_input_gradient(const at::Tensor& gradient, const at::Tensor& offsets, const at::Tensor& w,
                                 GemmBody body);
/// gradientᵀ · rows of each group → [E, N, D] in dtype `type`, summed in fp32 (fp64 for fp64). The grouped body rounds to
/// the dtype of rows on the way, since at::_grouped_mm has no other output.
at::Tensor expert_weight_gradient(const at::Tensor& gradient, const at::Tensor& rows, const at::Tensor& offsets,
                                  at::ScalarType type, GemmBody body);
/// Σ of gradient's rows in each group → [E, N] in dtype `type`, each row times its number in scale [R] where that is
/// defined; sums as above.
at::Tensor expert_bias_gradient(const at::Tensor& gradient, const at::Tensor& offsets, const at::Tensor& scale,
                                at::ScalarType type, GemmBody body);

/// The parts of the above (expert_gemm_blocks.cpp): w as it is, or [E, D, N] read the other way round.
bool expert_blocks_take(const at::Tensor& rows, const at::Tensor& w);
at::Tensor expert_products_blocks(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w,
                                  const at::Tensor& bias);
at::Tensor expert_input_gradient_blocks(const at::Tensor& gradient, const at::Tensor& offsets, const at::Tensor& w);

/// On a CPU groups must begin at multiples of kRowTile; on a GPU the offsets do not matter (expert_gemm_grouped.cpp).
bool expert_grouped_takes(at::ScalarType type, const at::Tensor& offsets, const at::Tensor& w);
at::Tensor expert_products_grouped(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w,
                                   const at::Tensor& bias);
at::Tensor expert_input_gradient_grouped(const at::Tensor& gradient, const at::Tensor& offsets, const at::Tensor& w);
at::Tensor expert_weight_gradient_grouped(const at::Tensor& gradient, const at::Tensor& rows,
                                          const at::Tensor& offsets);
at::Tensor expert_bias_gradient_grouped(const at::Tensor& gradient, const at::Tensor& offsets, const at::Tensor& scale);

}  // namespace smoe
