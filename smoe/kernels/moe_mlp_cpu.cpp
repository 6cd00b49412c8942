// The mixture on a CPU, fp32 and fp64: whole experts side by side on the threads, each expert's products on one thread.
// Between forward and backward it keeps x, the routing and the hidden tensor before its activation, nothing else.
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <numeric>
#include <optional>
#include <vector>

#include "smoe/kernels/dropout.h"
#include "smoe/kernels/gather_sum.h"
#include "smoe/kernels/moe_mlp_bodies.h"
#include "smoe/kernels/row_linear.h"
#include "smoe/tensor/one_thread.h"

namespace smoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Calls work(e, first row, rows) for every expert that has rows, the largest first, on all threads. Experts write to
/// places of their own, so the order in which threads take them does not show in the result.
void for_each_expert(const DispatchPlan& plan,
                     const std::function<void(int64_t expert, int64_t first, int64_t rows)>& work) {
  std::vector<int64_t> order(plan.count.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return plan.count[static_cast<size_t>(a)] > plan.count[static_cast<size_t>(b)];
  });
  while (!order.empty() && plan.count[static_cast<size_t>(order.back())] == 0) order.pop_back();
  std::atomic<size_t> next = 0;
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;  // a thread of its own does not inherit the caller's mode
    const OneThreadProducts one_thread;
    for (size_t i = next++; i < order.size(); i = next++) {
      const auto e = static_cast<size_t>(order[i]);
      work(order[i], plan.first[e], plan.first[e + 1] - plan.first[e]);
    }
  });
}

/// What forward leaves for backward beside tensors.
struct Call : torch::CustomClassHolder {
  Call(const DispatchPlan& p, const MlpOptions& o) : plan(p), options(o) {}

  /// The tokens of the rows [first, first + rows), the last token where a row is empty.
  at::Tensor tokens(int64_t first, int64_t rows) const {
    return plan.row_token.narrow(0, first, rows).clamp_max(plan.tokens - 1);
  }

  /// hidden · dropout mask of those rows; hidden itself without dropout.
  at::Tensor drop(const at::Tensor& hidden, const at::Tensor& token, int64_t expert) const {
    if (options.dropout_p == 0) return hidden;
    const at::Tensor mask = expert_dropout_mask(token, expert, hidden.size(1), options.dropout_p, options.dropout_key);
    return hidden * mask.to(hidden.scalar_type());
  }

  DispatchPlan plan;
  MlpOptions options;
};

at::Tensor row_of(const at::Tensor& stacked, int64_t e) {
  return stacked.defined() ? stacked.select(0, e) : at::Tensor();
}

at::Tensor zeros_like_or_none(const at::Tensor& x) {
  return x.defined() ? at::zeros_like(x, at::MemoryFormat::Contiguous) : at::Tensor();
}

/// For one expert of a call: gradients of its matrices, its rows and their weights from those of the outputs.
struct ExpertBackward {
  const Call& call;
  const at::Tensor &x, &w1, &w2, &hidden, &row_weight, &gradient;  // hidden [R, H] before the activation
  at::Tensor &grad_rows, &grad_row_weight, &grad_w1, &grad_b1, &grad_w2, &grad_b2;
  const at::Tensor& b2;

  void operator()(int64_t e, int64_t first, int64_t /*padded*/) const {
    // Rows that hold a token come first in a group; empty ones take no part, so that nothing in them can spread.
    const int64_t rows = call.plan.count[static_cast<size_t>(e)];
    const at::Tensor token = call.tokens(first, rows);
    const at::Tensor before = hidden.narrow(0, first, rows);
    const at::Tensor after = call.drop(activate(before, call.options.activation), token, e);
    const at::Tensor of_output = gradient.index_select(0, token);   // [n, D]
    const at::Tensor through = at::mm(of_output, w2.select(0, e));  // [n, H], not yet weighted
    // The gradient of a weight is its row's output · gradient, which is at hand here without the output itself.
    at::Tensor of_weight = (through * after).sum(-1);
    if (b2.defined()) of_weight += at::mv(of_output, b2.select(0, e));
    grad_row_weight.narrow(0, first, rows).copy_(of_weight);
    const at::Tensor weight = row_weight.narrow(0, first, rows).unsqueeze(1);
    const at::Tensor weighted = of_output * weight;
    at::Tensor of_w2 = grad_w2.select(0, e), of_w1 = grad_w1.select(0, e);
    at::mm_out(of_w2, weighted.t(), after);
    if (grad_b2.defined()) grad_b2.select(0, e).copy_(weighted.sum(0));
    const at::Tensor of_before =
        activate_backward(call.drop(through * weight, token, e), before, call.options.activation);
    at::mm_out(of_w1, of_before.t(), x.index_select(0, token));
    if (grad_b1.defined()) grad_b1.select(0, e).copy_(of_before.sum(0));
    at::Tensor of_rows = grad_rows.narrow(0, first, rows);
    at::mm_out(of_rows, of_before, w1.select(0, e));
  }
};

class MoeMlpCpu : public torch::autograd::Function<MoeMlpCpu> {
 public:
  /// weight [T, K] in the order of plan.position. A bias that there is not is no value: autograd takes no undefined
  /// tensor for an input.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& w1, const std::optional<at::Tensor>& bias1, const at::Tensor& w2,
                            const std::optional<at::Tensor>& bias2, const c10::intrusive_ptr<Call>& call) {
    const at::Tensor b1 = bias1.value_or(at::Tensor()), b2 = bias2.value_or(at::Tensor());
    const DispatchPlan& plan = call->plan;
    at::Tensor hidden = at::empty({plan.rows(), w1.size(1)}, x.options());
    at::Tensor rows_out = at::empty({plan.rows(), x.size(1)}, x.options());
    for_each_expert(plan, [&](int64_t e, int64_t first, int64_t rows) {
      const at::Tensor token = call->tokens(first, rows);
      at::Tensor before = hidden.narrow(0, first, rows), y = rows_out.narrow(0, first, rows);
      before.copy_(row_linear(x.index_select(0, token), w1.select(0, e), row_of(b1, e)));
      const at::Tensor after = call->drop(activate(before, call->options.activation), token, e);
      y.copy_(row_linear(after, w2.select(0, e), row_of(b2, e)));
    });
    context->save_for_backward({x, weight, w1, b1, w2, b2, hidden});
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    return gather_sum(rows_out, plan.position, weight);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &w1 = saved[2], &b1 = saved[3], &w2 = saved[4], &b2 = saved[5];
    const auto call = c10::static_intrusive_pointer_cast<Call>(context->saved_data["call"].toCapsule());
    const DispatchPlan& plan = call->plan;
    const at::Tensor gradient = gradients[0].contiguous(), places = plan.position.reshape(-1);
    // One row past the end takes what the empty slots bring.
    at::Tensor row_weight = at::zeros({plan.rows() + 1}, weight.options());
    row_weight.scatter_(0, places, weight.reshape(-1));
    at::Tensor grad_row_weight = at::zeros({plan.rows() + 1}, weight.options());
    at::Tensor grad_rows = at::empty({plan.rows(), x.size(1)}, x.options());
    at::Tensor grad_w1 = zeros_like_or_none(w1), grad_b1 = zeros_like_or_none(b1);
    at::Tensor grad_w2 = zeros_like_or_none(w2), grad_b2 = zeros_like_or_none(b2);
    for_each_expert(plan, ExpertBackward{*call, x, w1, w2, saved[6], row_weight, gradient, grad_rows, grad_row_weight,
                                         grad_w1, grad_b1, grad_w2, grad_b2, b2});
    const at::Tensor grad_weight = grad_row_weight.index_select(0, places).view(weight.sizes());
    const at::Tensor grad_x = gather_sum(grad_rows, plan.position, at::Tensor());
    return {grad_x, grad_weight, grad_w1, grad_b1, grad_w2, grad_b2, at::Tensor()};
  }
};

}  // namespace

bool moe_mlp_cpu_takes(const at::Tensor& x, const MlpWeights& weights) {
  const auto type = x.scalar_type();
  return x.device().is_cpu() && (type == at::kFloat || type == at::kDouble) && weights.w1.scalar_type() == type;
}

at::Tensor moe_mlp_cpu(const at::Tensor& x, const at::Tensor& weight, const MlpWeights& weights,
                       const DispatchPlan& plan, const MlpOptions& options) {
  const auto given = [](const at::Tensor& b) { return b.defined() ? std::optional<at::Tensor>(b) : std::nullopt; };
  return MoeMlpCpu::apply(x.contiguous(), weight.gather(1, plan.slot), weights.w1, given(weights.b1), weights.w2,
                          given(weights.b2), c10::make_intrusive<Call>(plan, options));
}

}  // namespace smoe
