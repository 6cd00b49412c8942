// The bodies of moe_mlp, which it chooses between; they agree to rounding.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>

#include "smoe/kernels/moe_mlp.h"

namespace smoe {

struct MlpOptions {
  Activation activation = Activation::kRelu;
  double dropout_p = 0;
  uint64_t dropout_key = 0;
};

/// A call: x [T, D], expert [T, K], weight [T, K], as moe_mlp has them.
struct MlpCall {
  at::Tensor x, expert, weight;
  MlpWeights weights;
  MlpOptions options;
};

/// Which of them: the names that smoe::moe_mlp_forward and smoe::moe_mlp_backward know them by are reference, grouped and
/// blocks.
enum class MlpBody { kReference, kGrouped, kBlocks };

/// Any device, any floating dtype, in LibTorch's operators and with their autograd (moe_mlp_reference.cpp).
at::Tensor moe_mlp_reference(const MlpCall& call);

/// Whether the CPU body computes in this device and dtypes on this processor: fp32 with fp32 weights, or bf16 with bf16
/// or fp32 weights (and with a gated activation an even H).
bool moe_mlp_cpu_takes(const at::Tensor& x, const MlpWeights& weights, Activation activation);
/// The same of what is on a CPU, with weights in such a dtype.
bool moe_mlp_cpu_takes(at::ScalarType type, int64_t H, Activation activation);

/// What the forward pass leaves: y [T, D], and for the backward pass, where it was asked for, the hidden rows before
/// their activation [R, H or 2 H] in the dtype of x, grouped by expert; rows past the last group are arbitrary. The CPU
/// body has R = T · K (kernels/expert_rows.h), the grouped one groups of whole tiles (kernels/row_plan.h). In the CPU
/// body, units before ReLU that dropout drops are negative there, so that its mask is drawn once.
struct MlpForward {
  at::Tensor y, hidden;
};

/// (moe_mlp_cpu_forward.cpp)
MlpForward moe_mlp_cpu_forward(const MlpCall& call, bool keep_hidden);

/// Which gradients are wanted, and the gradients: of x, weight, w1, b1, w2, b2. What is not wanted, or is not there, is
/// undefined. A gradient has the dtype of what it is of; weights' are summed in fp32.
using MlpWanted = std::array<bool, 6>;
using MlpGradients = std::array<at::Tensor, 6>;

/// From the gradient [T, D] of y and the hidden rows (moe_mlp_cpu_backward.cpp).
MlpGradients moe_mlp_cpu_backward(const MlpCall& call, const at::Tensor& hidden, const at::Tensor& gradient,
                                  const MlpWanted& wanted);

/// The grouped body's groups begin at multiples of this many rows: a tile of the products of a CPU (row_linear.h), and
/// 16 bytes and more on a GPU.
inline constexpr int64_t kGroupedAlign = 16;

/// Whether the grouped body is the fastest for x: on CUDA in bf16, and where our CUDA kernels are built in fp32 and fp64.
bool moe_mlp_grouped_is_for(const at::Tensor& x);

/// CPU and CUDA, in fp32, fp64 and bf16, all experts in one product where there is one for them (moe_mlp_grouped.cpp).
MlpForward moe_mlp_grouped_forward(const MlpCall& call, bool keep_hidden);
MlpGradients moe_mlp_grouped_backward(const MlpCall& call, const at::Tensor& hidden, const at::Tensor& gradient,
                                      const MlpWanted& wanted);

}  // namespace smoe
