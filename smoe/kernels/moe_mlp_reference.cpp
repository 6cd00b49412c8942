// The plain body of the mixture, in LibTorch's operators and with its autograd: any device, any floating dtype. Kept for
// ever; every other body is measured against it.
#include <ATen/ops/cat.h>

#include <vector>

#include "smoe/kernels/dropout.h"
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

at::Tensor moe_mlp_reference(const at::Tensor& x, const at::Tensor& weight, const MlpWeights& weights,
                             const DispatchPlan& plan, const MlpOptions& options) {
  const int64_t experts = plan.experts();
  const std::vector<at::Tensor> w1 = by_expert(weights.w1, x, experts), b1 = by_expert(weights.b1, x, experts);
  const std::vector<at::Tensor> w2 = by_expert(weights.w2, x, experts), b2 = by_expert(weights.b2, x, experts);
  const at::Tensor token = options.dropout_p > 0 ? plan.row_token.to(at::kCPU) : at::Tensor();
  std::vector<int64_t> sizes;
  for (size_t e = 0; e < plan.count.size(); ++e) sizes.push_back(plan.first[e + 1] - plan.first[e]);
  const std::vector<at::Tensor> groups = dispatch(x, plan).split_with_sizes(sizes);

  std::vector<at::Tensor> outputs;
  for (size_t e = 0; e < groups.size(); ++e) {
    // An expert without rows is no exception: its products of no rows are what gives it a gradient of zeros.
    at::Tensor hidden = activate(row_linear(groups[e], w1[e], b1[e]), options.activation);
    if (options.dropout_p > 0) {
      const at::Tensor mask = expert_dropout_mask(token.narrow(0, plan.first[e], sizes[e]), static_cast<int64_t>(e),
                                                  hidden.size(1), options.dropout_p, options.dropout_key);
      hidden = hidden * mask.to(hidden.options());
    }
    outputs.push_back(row_linear(hidden, w2[e], b2[e]));
  }
  return combine(at::cat(outputs), weight, plan);
}

}  // namespace smoe
