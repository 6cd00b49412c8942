// A mixture to measure: its tensors and its routing.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bench/layer_shape.h"
#include "smoe/kernels/moe_mlp.h"

namespace smoe::bench {

/// Where tokens go: kBalanced, each expert gets as many as any other, which ones is random; kUniform, each token draws its
/// experts; kSkewed, all go to as few experts as K allows, with K ≤ 2 to two.
enum class Spread { kBalanced, kUniform, kSkewed };

const std::vector<std::string>& spread_names();
/// Throws UserError with the nearest name.
Spread parse_spread(const std::string& name);

/// Experts int32 [T, K] drawn from `seed`, distinct within a token.
at::Tensor make_routing(const LayerShape& shape, Spread spread, uint64_t seed);

/// What moe_mlp takes. With bf16, x is bf16 and the weights stay fp32, as in training.
struct LayerCase {
  LayerShape shape;
  Activation activation;
  at::Tensor x;               ///< [T, D]
  at::Tensor expert, weight;  ///< [T, K] int32, fp32
  MlpWeights weights;

  /// Random numbers, the same for the same arguments on every device. Throws UserError for what does not fit into memory.
  static LayerCase make(const LayerShape& shape, at::ScalarType type, Activation activation, Spread spread,
                        at::Device device = at::kCPU);

  /// Multiply-adds of the forward pass times two, in the products of the experts.
  double forward_flops() const;
  /// Bytes of one expert's matrices in the dtype that products are computed in.
  int64_t expert_bytes() const;
  /// The body of moe_mlp that computes this: "cpu", "reference" or "grouped".
  std::string kernel() const;

  at::Tensor forward() const;
};

/// fp32 or bf16; throws UserError for another name.
at::ScalarType parse_dtype(const std::string& name);

}  // namespace smoe::bench
