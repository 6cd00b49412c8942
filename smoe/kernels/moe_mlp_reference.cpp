// The plain body of the mixture, in LibTorch's operators and with its autograd: any device, any floating dtype. Kept for
// ever; every other body is measured against it.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "smoe/kernels/dispatch.h"
#include "smoe/kernels/dropout.h"
#include "smoe/kernels/expert_gemm_bodies.h"
#include "smoe/kernels/moe_mlp_bodies.h"
#include "smoe/kernels/row_linear.h"

namespace smoe {
namespace {

/// The matrices of each expert in the dtype of x; undefined entries where there is no such bias.
std::vector<at::Tensor> by_expert(const at::Tensor& stacked, const at::Tensor& x, int64_t experts) {
  if (!stacked.defined()) return std::vector<at::Tensor>(static_cast<size_t>(experts));
  return stacked.to(x.scalar_type()).unbind(0);
}

}  // namespace

at::Tensor moe_mlp_reference(const MlpCall& call) {
  const auto& [x, expert, weight, weights, options] = call;
  const int64_t experts = weights.w1.size(0);
  const std::vector<at::Tensor> w1 = by_expert(weights.w1, x, experts), b1 = by_expert(weights.b1, x, experts);
  const std::vector<at::Tensor> w2 = by_expert(weights.w2, x, experts), b2 = by_expert(weights.b2, x, experts);
  const auto [rows, plan] = dispatch(x, expert, experts, kRowTile);
  const std::vector<int64_t> first = offsets_on_cpu(plan.offsets, plan.rows());
  at::Tensor token;
  if (options.dropout_p > 0 && plan.slots() > 0) token = plan.slot.floor_divide(plan.slots()).to(at::kCPU, at::kLong);

  std::vector<at::Tensor> outputs;
  for (size_t e = 0; e < w1.size(); ++e) {
    const int64_t size = first[e + 1] - first[e];
    // An expert without rows is no exception: its products of no rows are what gives it a gradient of zeros.
    at::Tensor hidden = activate(row_linear(rows.narrow(0, first[e], size), w1[e], b1[e]), options.activation);
    if (token.defined()) {
      const at::Tensor mask = expert_dropout_mask(token.narrow(0, first[e], size), static_cast<int64_t>(e),
                                                  hidden.size(1), options.dropout_p, options.dropout_key);
      hidden = hidden * mask.to(hidden.options());
    }
    outputs.push_back(row_linear(hidden, w2[e], b2[e]));
  }
  outputs.push_back(at::zeros({plan.rows() - first.back(), weights.w2.size(1)}, x.options()));
  return combine(at::cat(outputs), weight, plan);
}

}  // namespace smoe
