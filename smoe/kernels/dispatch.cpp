#include "smoe/kernels/dispatch.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "smoe/base/error.h"
#include "smoe/kernels/gather_sum.h"
#include "smoe/kernels/row_linear.h"

namespace smoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

/// The rows of x [T, D] that `row_token` names; token T is a row of zeros.
at::Tensor gather_rows(const at::Tensor& x, const at::Tensor& row_token) {
  const at::Tensor padded = at::cat({x, at::zeros({1, x.size(1)}, x.options())});
  return padded.index_select(0, row_token);
}

class DispatchFunction : public torch::autograd::Function<DispatchFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& row_token,
                            const at::Tensor& position) {
    context->save_for_backward({position});
    return gather_rows(x, row_token);
  }

  static variable_list backward(AutogradContext* context, variable_list gradient) {
    const at::Tensor position = context->get_saved_variables()[0];
    return {gather_sum(gradient[0].contiguous(), position, at::Tensor()), at::Tensor(), at::Tensor()};
  }
};

class CombineFunction : public torch::autograd::Function<CombineFunction> {
 public:
  /// weight [T, K] in the order of `position`.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& y, const at::Tensor& weight,
                            const at::Tensor& row_token, const at::Tensor& position) {
    context->save_for_backward({y, weight, row_token, position});
    return gather_sum(y, position, weight);
  }

  static variable_list backward(AutogradContext* context, variable_list gradient) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &y = saved[0], &weight = saved[1], &row_token = saved[2], &position = saved[3];
    const int64_t rows = y.size(0);
    const at::Tensor of_row = gather_rows(gradient[0], row_token);  // [R, D]
    // A row past the end takes what the empty slots bring, and is cut off again.
    at::Tensor row_weight = at::zeros({rows + 1}, weight.options());
    row_weight.scatter_(0, position.reshape(-1), weight.reshape(-1));
    at::Tensor dot = at::zeros({rows + 1}, weight.options());
    dot.narrow(0, 0, rows).copy_((of_row.to(weight.scalar_type()) * y).sum(-1));
    const at::Tensor grad_y = of_row * row_weight.narrow(0, 0, rows).unsqueeze(1).to(y.scalar_type());
    const at::Tensor grad_weight = dot.index_select(0, position.reshape(-1)).view(weight.sizes());
    return {grad_y, grad_weight, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

DispatchPlan make_dispatch_plan(const at::Tensor& expert, int64_t experts) {
  require(expert.dim() == 2, "dispatch: expert must be [T, K], got ", expert.sizes());
  const at::Tensor ids = expert.to(at::kCPU, at::kLong).contiguous();
  const int64_t* id = ids.const_data_ptr<int64_t>();
  const int64_t tokens = ids.size(0), slots = ids.size(1);
  const auto is_empty = [experts](int64_t e) { return e < 0 || e >= experts; };

  DispatchPlan plan;
  plan.tokens = tokens;
  plan.count.assign(static_cast<size_t>(experts), 0);
  for (int64_t i = 0; i < tokens * slots; ++i) {
    if (!is_empty(id[i])) ++plan.count[static_cast<size_t>(id[i])];
  }
  plan.first.assign(1, 0);
  for (const int64_t count : plan.count) {
    plan.first.push_back(plan.first.back() + round_up(count, kRowTile));
  }

  const int64_t rows = plan.rows();
  at::Tensor row_token = at::empty({rows}, at::kLong).fill_(tokens);
  at::Tensor position = at::empty({tokens, slots}, at::kLong), slot = at::empty({tokens, slots}, at::kLong);
  int64_t* row_token_data = row_token.mutable_data_ptr<int64_t>();
  int64_t* position_data = position.mutable_data_ptr<int64_t>();
  int64_t* slot_data = slot.mutable_data_ptr<int64_t>();
  std::vector<int64_t> next(plan.first.begin(), plan.first.end() - 1);
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t* of_token = id + t * slots;
    int64_t* order = slot_data + t * slots;
    for (int64_t s = 0; s < slots; ++s) order[s] = s;
    const auto key = [&](int64_t s) { return is_empty(of_token[s]) ? experts : of_token[s]; };
    std::sort(order, order + slots, [&](int64_t a, int64_t b) { return std::pair(key(a), a) < std::pair(key(b), b); });
    for (int64_t s = 0; s < slots; ++s) {
      const int64_t e = of_token[order[s]];
      position_data[t * slots + s] = is_empty(e) ? rows : next[static_cast<size_t>(e)];
      if (!is_empty(e)) row_token_data[next[static_cast<size_t>(e)]++] = t;
    }
  }
  plan.row_token = row_token.to(expert.device());
  plan.position = position.to(expert.device());
  plan.slot = slot.to(expert.device());
  return plan;
}

at::Tensor dispatch(const at::Tensor& x, const DispatchPlan& plan) {
  require(x.dim() == 2 && x.size(0) == plan.tokens, "dispatch: x must be [T = ", plan.tokens, ", D], got ", x.sizes());
  return DispatchFunction::apply(x, plan.row_token, plan.position);
}

at::Tensor combine(const at::Tensor& y, const at::Tensor& weight, const DispatchPlan& plan) {
  require(y.dim() == 2 && y.size(0) == plan.rows(), "combine: y must be [R = ", plan.rows(), ", D], got ", y.sizes());
  require(weight.sizes() == plan.slot.sizes(), "combine: weight must be ", plan.slot.sizes(), ", got ", weight.sizes());
  return CombineFunction::apply(y, weight.gather(1, plan.slot), plan.row_token, plan.position);
}

}  // namespace smoe
