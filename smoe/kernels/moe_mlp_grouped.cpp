// The mixture on rows grouped by expert: a few large operators, each over the rows of all experts. The products are grouped
// ones where those take type and widths, and nothing waits for the device then (but where our CUDA kernels are not built, for
// dropout's masks); else they go expert by expert. Between them LibTorch's operators or those kernels compute.
#include <ATen/ops/empty.h>

#include <utility>

#include "smoe/kernels/expert_gemm_bodies.h"
#include "smoe/kernels/hidden_rows.h"
#include "smoe/kernels/moe_mlp_bodies.h"
#include "smoe/kernels/row_kernels.h"
#include "smoe/kernels/row_moves.h"

namespace smoe {
namespace {

/// What both passes begin with.
struct Rows {
  RowPlan plan;
  GemmBody gemm;  ///< which products

  explicit Rows(const MlpCall& call)
      : plan(make_row_plan(call.expert, call.weights.w1.size(0), kGroupedAlign)), gemm(grouped_or_plain(call)) {}

  GemmBody grouped_or_plain(const MlpCall& call) const {
    const bool both = expert_grouped_takes(call.x.scalar_type(), plan.offsets, call.weights.w1) &&
                      expert_grouped_takes(call.x.scalar_type(), plan.offsets, call.weights.w2);
    return both ? GemmBody::kGrouped : GemmBody::kPlain;
  }
};

/// y from the rows of the second product, which lack its bias.
at::Tensor combine_with_bias(at::Tensor& rows, const at::Tensor& bias, const at::Tensor& weight, const RowPlan& plan) {
  if (row_kernels_take(rows)) return combine_rows_cuda(rows, bias, weight, plan);
  add_expert_bias(rows, bias, plan.offsets);
  return combine_rows(rows, weight, plan);
}

}  // namespace

bool moe_mlp_grouped_is_for(const at::Tensor& x) {
  return x.is_cuda() && (x.scalar_type() == at::kBFloat16 || row_kernels_take(x));
}

MlpForward moe_mlp_grouped_forward(const MlpCall& call, bool keep_hidden) {
  const MlpWeights& w = call.weights;
  const Rows rows(call);
  at::Tensor pre = expert_products(gather_rows(call.x, rows.plan), rows.plan.offsets, w.w1, {}, rows.gemm);
  const at::Tensor after = hidden_rows(pre, w.b1, rows.plan, call.options, keep_hidden);
  if (!keep_hidden) pre = at::empty({0, pre.size(1)}, pre.options());
  at::Tensor out = expert_products(after, rows.plan.offsets, w.w2, {}, rows.gemm);
  return {combine_with_bias(out, w.b2, call.weight, rows.plan), pre};
}

MlpGradients moe_mlp_grouped_backward(const MlpCall& call, const at::Tensor& hidden, const at::Tensor& gradient,
                                      const MlpWanted& wanted) {
  const auto [x_wanted, weight_wanted, w1_wanted, b1_wanted, w2_wanted, b2_wanted] = wanted;
  const bool through_wanted = x_wanted || weight_wanted || w1_wanted || b1_wanted;
  const MlpWeights& w = call.weights;
  const Rows rows(call);
  const RowPlan& plan = rows.plan;
  at::Tensor of_rows = gather_rows(gradient, plan);  // not yet weighted
  const auto sums = of_rows.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  OutputGradient back{of_rows, {}, weight_of_rows(call.weight.to(sums), plan), w.b2};
  MlpGradients out;
  if (b2_wanted) out[5] = expert_bias_gradient(of_rows, plan.offsets, back.scale, w.b2.scalar_type(), rows.gemm);
  if (!through_wanted && !w2_wanted) return out;

  if (through_wanted) {
    back.through = expert_input_gradient(of_rows, plan.offsets, w.w2, rows.gemm);
    if (!row_kernels_take(back.through)) zero_past_the_last_group(back.through, plan.offsets);  // they do not read it
  }
  HiddenGradients h = hidden_rows_backward(hidden, std::move(back), plan, call.options);
  if (weight_wanted) out[1] = slots_of_rows(h.dot, plan).to(call.weight.scalar_type());
  if (w2_wanted) out[4] = expert_weight_gradient(of_rows, h.after, plan.offsets, w.w2.scalar_type(), rows.gemm);
  // Tensors of all rows go as soon as they have served, so that no more of them than needed are there at once.
  of_rows.reset();
  h.after.reset();
  if (w1_wanted) {
    out[2] = expert_weight_gradient(h.pre, gather_rows(call.x, plan), plan.offsets, w.w1.scalar_type(), rows.gemm);
  }
  if (b1_wanted) out[3] = expert_bias_gradient(h.pre, plan.offsets, {}, w.b1.scalar_type(), rows.gemm);
  if (x_wanted) out[0] = combine_rows(expert_input_gradient(h.pre, plan.offsets, w.w1, rows.gemm), {}, plan);
  return out;
}

}  // namespace smoe
