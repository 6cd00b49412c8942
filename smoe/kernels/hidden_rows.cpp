#include "smoe/kernels/hidden_rows.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <utility>

#include "smoe/kernels/dropout_rows.h"
#include "smoe/kernels/expert_gemm_bodies.h"
#include "smoe/kernels/row_kernels.h"

namespace smoe {
namespace {

/// Dropout's mask for the hidden units of all rows, [R, H] in fp32 on the rows' device; undefined where nothing drops.
at::Tensor mask_of_rows(const RowPlan& plan, int64_t units, const MlpOptions& options) {
  if (options.dropout_p == 0 || plan.rows() == 0) return {};
  const DropoutRule rule(options.dropout_p, options.dropout_key);
  const std::vector<int64_t> first = offsets_on_cpu(plan.offsets, plan.rows());
  const at::Tensor slots = plan.slot.to(at::kCPU).contiguous();
  const int32_t* slot = slots.const_data_ptr<int32_t>();
  at::Tensor mask = at::zeros({plan.rows(), units}, at::kFloat);
  float* out = mask.mutable_data_ptr<float>();
  at::parallel_for(0, first.back(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t expert = std::upper_bound(first.begin(), first.end(), r) - first.begin() - 1;
      fill_dropout(rule, expert_counter(slot[r] / plan.slots(), expert), 0, units, out + r * units);
    }
  });
  return mask.to(plan.slot.device());
}

/// The hidden rows taken apart, in the dtype that they are computed in.
struct Parts {
  at::Tensor gate;      ///< what the function is of: all of pre, or its first half
  at::Tensor value;     ///< the other half, or undefined
  at::Tensor mask;      ///< or undefined
  at::Tensor function;  ///< of the gate
  at::Tensor after;     ///< what comes out

  Parts(const at::Tensor& pre, const RowPlan& plan, const MlpOptions& options) {
    const auto type = pre.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const bool gated = is_gated(options.activation);
    const int64_t units = gated ? pre.size(1) / 2 : pre.size(1);
    gate = pre.narrow(1, 0, units).to(type).contiguous();
    if (gated) value = pre.narrow(1, units, units).to(type);
    mask = mask_of_rows(plan, units, options);
    function = activate(gate, gate_function(options.activation));
    after = weighed(times_value(function));
  }

  at::Tensor weighed(const at::Tensor& t) const { return mask.defined() ? t * mask : t; }
  at::Tensor times_value(const at::Tensor& t) const { return value.defined() ? t * value : t; }
};

}  // namespace

at::Tensor hidden_rows(at::Tensor& pre, const at::Tensor& bias, const RowPlan& plan, const MlpOptions& options,
                       bool keep_pre) {
  if (row_kernels_take(pre)) return hidden_rows_cuda(pre, bias, plan, options, keep_pre);
  zero_past_the_last_group(pre, plan.offsets);
  add_expert_bias(pre, bias, plan.offsets);
  return Parts(pre, plan, options).after.to(pre.scalar_type());
}

HiddenGradients hidden_rows_backward(const at::Tensor& pre, OutputGradient gradient, const RowPlan& plan,
                                     const MlpOptions& options) {
  if (row_kernels_take(pre)) return hidden_rows_backward_cuda(pre, std::move(gradient), plan, options);
  const Parts parts(pre, plan, options);
  const at::Tensor scale = gradient.scale.unsqueeze(1);
  HiddenGradients out;
  out.after = (parts.after * scale).to(pre.scalar_type());
  if (!gradient.through.defined()) return out;
  const at::Tensor through = gradient.through.to(parts.after.scalar_type());
  out.dot = (through * parts.after).sum(1);
  if (gradient.bias.defined()) {
    at::Tensor bias = at::zeros_like(gradient.of_rows);
    add_expert_bias(bias, gradient.bias, plan.offsets);
    out.dot = out.dot + (gradient.of_rows.to(out.dot.scalar_type()) * bias).sum(1);
  }
  const at::Tensor of_after = parts.weighed(through * scale);
  const at::Tensor of_gate =
      activate_backward(parts.times_value(of_after), parts.gate, gate_function(options.activation));
  out.pre = parts.value.defined() ? at::cat({of_gate, of_after * parts.function}, 1) : of_gate;
  out.pre = out.pre.to(pre.scalar_type());
  return out;
}

}  // namespace smoe
