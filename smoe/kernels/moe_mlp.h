// The mixture of feed-forward experts as one operator.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "smoe/kernels/activation.h"
#include "smoe/kernels/pass_memory.h"

namespace smoe {

/// The weights of one group of feed-forward experts. Biases may be undefined.
struct MlpWeights {
  at::Tensor w1;  ///< [E, H, D]; [E, 2 H, D] with a gated activation, gate rows first
  at::Tensor b1;  ///< [E, H]; [E, 2 H]
  at::Tensor w2;  ///< [E, D, H]
  at::Tensor b2;  ///< [E, D]
};

/// y[t] = Σ_s weight[t, s] · E_e(x[t]) with e = expert[t, s] and E_e(x) = W2_e · drop(act(W1_e x + b1_e)) + b2_e.
///
/// x [T, D] fp32, fp64 or bf16; expert [T, K] int32 or int64, distinct within a token; weight [T, K]. Ids outside [0, E)
/// are empty slots (−1, and the sentinel E). The sum runs in ascending expert id. With bf16 x the weights' copies are
/// rounded to bf16 and products are accumulated in fp32. Dropout's mask is a function of (key, token, expert, unit)
/// (kernels/dropout.h). Weights that stay as they are between calls are packed for the products once: after a write to some
/// of a weight's numbers past its version counter (through `data` in Python, `data()` in C++, NumPy or shared memory) call
/// forget_packed_weights(). A row's bits depend on that row, its routing and the weights alone. Differentiable once in x,
/// weight and the weights; an expert without tokens gets a zero gradient. Autocast does not change it: x says in what to
/// compute. Throws UserError where shapes, types or devices do not fit.
/// The environment variable SMOE_KERNEL forces a body, which agree to rounding: reference, the plain one, or grouped, the
/// one for GPUs (kernels/kernel_choice.h).
at::Tensor moe_mlp(const at::Tensor& x, const at::Tensor& expert, const at::Tensor& weight, const MlpWeights& weights,
                   Activation activation, double dropout_p, uint64_t dropout_key);

/// Gives back the packed copies of all weights. By themselves those of tensors that are gone go when others are packed, and
/// now and then. From Python it is torch.ops.smoe.forget_packed_weights(), outside of code that is compiled.
void forget_packed_weights();

/// What such a call with weights of these shapes takes, for T = `tokens` of K = `slots` experts each that spread evenly,
/// computing in `type`; with `training` also the backward pass. For the body that this process would choose on a CPU.
PassMemory moe_mlp_memory(const MlpWeights& weights, int64_t tokens, double slots, Activation activation,
                          at::ScalarType type, bool training);

}  // namespace smoe
