// Tensors taken apart for the CUDA kernels.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "smoe/base/error.h"
#include "smoe/kernels/row_kernels.h"
#include "smoe/kernels/row_kernels_cuda.h"

namespace smoe {
namespace {

static_assert(static_cast<int>(GateFunction::kRelu) == static_cast<int>(Activation::kRelu) &&
              static_cast<int>(GateFunction::kGelu) == static_cast<int>(Activation::kGelu) &&
              static_cast<int>(GateFunction::kGeluTanh) == static_cast<int>(Activation::kGeluTanh) &&
              static_cast<int>(GateFunction::kSilu) == static_cast<int>(Activation::kSilu));

at::ScalarType wide_type(const at::Tensor& t) { return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

/// Calls f with a null pointer to the kernels' type of t, on t's device, and says what CUDA has to say.
template <class F>
void launch(const at::Tensor& t, const F& f) {
  const c10::cuda::CUDAGuard device(t.device());
  const char* error = nullptr;
  switch (t.scalar_type()) {
    case at::kFloat: error = f(static_cast<float*>(nullptr)); break;
    case at::kDouble: error = f(static_cast<double*>(nullptr)); break;
    default: error = f(static_cast<Bf16*>(nullptr)); break;
  }
  if (error != nullptr) throw Failure(concat("a CUDA kernel could not be launched: ", error));
}

CudaStream stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

/// Contiguous, of the dtype given; undefined stays so.
at::Tensor laid_out(const at::Tensor& t, at::ScalarType type) { return t.defined() ? t.to(type).contiguous() : t; }
at::Tensor laid_out(const at::Tensor& t) { return laid_out(t, t.defined() ? t.scalar_type() : at::kFloat); }

template <class T>
const T* read(const at::Tensor& t) {
  return t.defined() ? static_cast<const T*>(t.const_data_ptr()) : nullptr;
}
template <class T>
T* write(const at::Tensor& t) {
  return t.defined() ? static_cast<T*>(t.mutable_data_ptr()) : nullptr;
}

/// The plan with its tensors in one piece.
struct Plan {
  explicit Plan(const RowPlan& plan)
      : offsets(laid_out(plan.offsets)), slot(laid_out(plan.slot)), place(laid_out(plan.place)) {}

  RowPlanView view() const {
    return {
        read<int32_t>(offsets), read<int32_t>(slot), read<int32_t>(place), offsets.defined() ? offsets.size(0) - 1 : 0,
        place.size(0),          place.size(1),       slot.size(0)};
  }

  at::Tensor offsets, slot, place;
};

template <class T>
HiddenArguments<T> hidden_arguments(const Plan& plan, int64_t units, const MlpOptions& options) {
  const DropoutRule rule(options.dropout_p, options.dropout_key);
  HiddenArguments<T> out{};
  out.plan = plan.view();
  out.units = units;
  out.function = static_cast<GateFunction>(gate_function(options.activation));
  out.gated = is_gated(options.activation);
  out.key = rule.key;
  out.drop_below = rule.drop_below;
  out.kept_scale = rule.scale;
  return out;
}

}  // namespace

bool row_kernels_take(const at::Tensor& t) {
  const auto type = t.scalar_type();
  return t.is_cuda() && (type == at::kFloat || type == at::kDouble || type == at::kBFloat16);
}

at::Tensor gather_rows_cuda(const at::Tensor& x, const RowPlan& row_plan) {
  const Plan plan(row_plan);
  const at::Tensor from = laid_out(x), out = at::empty({row_plan.rows(), x.size(1)}, x.options());
  launch(x,
         [&]<class T>(T*) { return launch_gather<T>(plan.view(), read<T>(from), x.size(1), write<T>(out), stream()); });
  return out;
}

at::Tensor combine_rows_cuda(const at::Tensor& rows, const at::Tensor& bias, const at::Tensor& weight,
                             const RowPlan& row_plan) {
  const Plan plan(row_plan);
  const at::Tensor from = laid_out(rows), b = laid_out(bias, rows.scalar_type()), w = laid_out(weight, wide_type(rows));
  const at::Tensor out = at::empty({row_plan.tokens(), rows.size(1)}, rows.options());
  launch(rows, [&]<class T>(T*) {
    const CombineArguments<T> arguments{plan.view(),      read<T>(from), read<T>(b),
                                        read<Wide<T>>(w), rows.size(1),  write<T>(out)};
    return launch_combine(arguments, stream());
  });
  return out;
}

std::pair<at::Tensor, at::Tensor> combine_rows_backward_cuda(const at::Tensor& gradient, const at::Tensor& rows,
                                                             const at::Tensor& weight, const RowPlan& row_plan) {
  const Plan plan(row_plan);
  const auto wide = gradient.options().dtype(wide_type(gradient));
  const at::Tensor g = laid_out(gradient), held = laid_out(rows), w = laid_out(weight, wide_type(gradient));
  const at::Tensor of_rows = at::empty({row_plan.rows(), gradient.size(1)}, gradient.options());
  at::Tensor of_weight;
  if (rows.defined()) of_weight = at::zeros(row_plan.place.sizes(), wide);
  launch(gradient, [&]<class T>(T*) {
    const SpreadArguments<T> arguments{plan.view(),
                                       read<T>(g),
                                       read<T>(held),
                                       read<Wide<T>>(w),
                                       gradient.size(1),
                                       write<T>(of_rows),
                                       write<Wide<T>>(of_weight)};
    return launch_spread(arguments, stream());
  });
  return {of_rows, of_weight};
}

at::Tensor hidden_rows_cuda(at::Tensor& pre, const at::Tensor& bias, const RowPlan& row_plan,
                            const MlpOptions& options) {
  const Plan plan(row_plan);
  pre = pre.contiguous();
  const int64_t units = is_gated(options.activation) ? pre.size(1) / 2 : pre.size(1);
  const at::Tensor b = laid_out(bias, pre.scalar_type()), after = at::empty({pre.size(0), units}, pre.options());
  launch(pre, [&]<class T>(T*) {
    HiddenArguments<T> arguments = hidden_arguments<T>(plan, units, options);
    arguments.bias = read<T>(b);
    arguments.pre = write<T>(pre);
    arguments.after = write<T>(after);
    return launch_hidden(arguments, stream());
  });
  return after;
}

HiddenGradients hidden_rows_backward_cuda(const at::Tensor& pre, const OutputGradient& gradient,
                                          const RowPlan& row_plan, const MlpOptions& options) {
  const Plan plan(row_plan);
  const int64_t units = is_gated(options.activation) ? pre.size(1) / 2 : pre.size(1);
  const at::Tensor kept = laid_out(pre), through = laid_out(gradient.through), of_rows = laid_out(gradient.of_rows);
  const at::Tensor scale = laid_out(gradient.scale, wide_type(pre)), bias = laid_out(gradient.bias, pre.scalar_type());
  HiddenGradients out;
  out.after = at::empty({pre.size(0), units}, pre.options());
  if (through.defined()) {
    out.pre = at::empty_like(kept);
    out.dot = at::empty({pre.size(0)}, scale.options());
  }
  launch(pre, [&]<class T>(T*) {
    HiddenArguments<T> arguments = hidden_arguments<T>(plan, units, options);
    arguments.pre = const_cast<T*>(read<T>(kept));  // not written to on the way back
    arguments.after = write<T>(out.after);
    arguments.through = read<T>(through);
    arguments.scale = read<Wide<T>>(scale);
    arguments.of_pre = write<T>(out.pre);
    return launch_hidden_backward(arguments, read<T>(of_rows), read<T>(bias), of_rows.size(1), write<Wide<T>>(out.dot),
                                  stream());
  });
  return out;
}

at::Tensor column_sums_cuda(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& scale) {
  const at::Tensor from = laid_out(rows), ends = laid_out(offsets), factor = laid_out(scale, wide_type(rows));
  const at::Tensor out = at::empty({offsets.size(0) - 1, rows.size(1)}, rows.options().dtype(wide_type(rows)));
  launch(rows, [&]<class T>(T*) {
    const RowPlanView plan{read<int32_t>(ends), nullptr, nullptr, offsets.size(0) - 1, 0, 0, rows.size(0)};
    return launch_column_sums(plan, read<T>(from), read<Wide<T>>(factor), rows.size(1), write<Wide<T>>(out), stream());
  });
  return out;
}

at::Tensor dropout_cuda(const at::Tensor& x, double p, uint64_t key) {
  const DropoutRule rule(p, key);
  const at::Tensor from = laid_out(x), out = at::empty_like(from);
  launch(x, [&]<class T>(T*) {
    return launch_dropout(read<T>(from), x.numel(), rule.key, rule.drop_below, rule.scale, write<T>(out), stream());
  });
  return out;
}

}  // namespace smoe
