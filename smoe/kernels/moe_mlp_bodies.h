// The bodies of moe_mlp, which it chooses between; they agree to rounding.
#pragma once

#include "smoe/kernels/dispatch.h"
#include "smoe/kernels/moe_mlp.h"

namespace smoe {

struct MlpOptions {
  Activation activation = Activation::kRelu;
  double dropout_p = 0;
  uint64_t dropout_key = 0;
};

/// Any device, any floating dtype (moe_mlp_reference.cpp).
at::Tensor moe_mlp_reference(const at::Tensor& x, const at::Tensor& weight, const MlpWeights& weights,
                             const DispatchPlan& plan, const MlpOptions& options);

/// Whether moe_mlp_cpu computes in this device and dtype.
bool moe_mlp_cpu_takes(const at::Tensor& x, const MlpWeights& weights);

/// fp32 and fp64 on the CPU, whole experts side by side on the threads (moe_mlp_cpu.cpp).
at::Tensor moe_mlp_cpu(const at::Tensor& x, const at::Tensor& weight, const MlpWeights& weights,
                       const DispatchPlan& plan, const MlpOptions& options);

}  // namespace smoe
