// Tensors taken apart for the CUDA kernels.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <algorithm>
#include <initializer_list>

#include "smoe/kernels/cuda_launch.h"
#include "smoe/kernels/row_kernels.h"
#include "smoe/kernels/row_kernels_cuda.h"
#include "smoe/kernels/row_plan_cuda.h"

namespace smoe {
namespace {

static_assert(static_cast<int>(GateFunction::kRelu) == static_cast<int>(Activation::kRelu) &&
              static_cast<int>(GateFunction::kGelu) == static_cast<int>(Activation::kGelu) &&
              static_cast<int>(GateFunction::kGeluTanh) == static_cast<int>(Activation::kGeluTanh) &&
              static_cast<int>(GateFunction::kSilu) == static_cast<int>(Activation::kSilu));

/// As launch(), for fp32 and fp64 alone.
template <class F>
void launch_wide(const at::Tensor& t, const F& f) {
  launch_on_device(t, [&] {
    return t.scalar_type() == at::kDouble ? f(static_cast<double*>(nullptr)) : f(static_cast<float*>(nullptr));
  });
}

/// Whether rows of so many numbers, in each of these tensors that is defined, are made of whole pieces of so many numbers
/// that begin at multiples of their size in memory.
bool are_whole(int64_t width, int64_t piece, std::initializer_list<at::Tensor> tensors) {
  return width % piece == 0 && std::all_of(tensors.begin(), tensors.end(), [&](const at::Tensor& t) {
           return !t.defined() ||
                  reinterpret_cast<uintptr_t>(t.const_data_ptr()) % static_cast<uintptr_t>(piece * t.element_size()) ==
                      0;
         });
}

/// As are_whole, of spans of T.
template <class T>
bool have_whole_spans(int64_t width, std::initializer_list<at::Tensor> tensors) {
  return are_whole(width, kSpan<T>, tensors);
}

/// A bias [E, N], undefined or not, that is added to parts of so many numbers; laid out, and of one of both dtypes.
template <class T>
Biases<T> biases(const at::Tensor& bias, const at::Tensor& rows, int64_t width) {
  if (!bias.defined()) return {};
  const bool whole = have_whole_spans<T>(width, {bias});
  if (bias.scalar_type() == rows.scalar_type()) return {read<T>(bias), nullptr, whole};
  return {nullptr, read<Wide<T>>(bias), whole};
}

/// The bias as biases() takes it: one of another dtype than the rows' becomes as wide as sums are.
at::Tensor laid_out_bias(const at::Tensor& bias, const at::Tensor& rows) {
  if (!bias.defined() || bias.scalar_type() == rows.scalar_type()) return laid_out(bias);
  return laid_out(bias, wide_type(rows));
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

bool row_plan_cuda_takes(const at::Tensor& expert, int64_t experts) {
  return expert.is_cuda() && expert.numel() > 0 && experts > 0 && experts <= kMaxPlanExperts;
}

RowPlan row_plan_cuda(const at::Tensor& expert, int64_t experts, int64_t align) {
  const at::Tensor ids = laid_out(expert);
  const int64_t rows = rows_of_slots(expert.numel(), experts, align);
  const auto ints = expert.options().dtype(at::kInt);
  const RowPlan out{.offsets = at::empty({experts + 1}, ints),
                    .slot = at::empty({rows}, ints),
                    .place = at::empty(expert.sizes(), ints)};
  const at::Tensor before = at::empty({experts, plan_segments(expert.numel())}, ints);
  const at::Tensor totals = at::empty({experts}, ints), row = at::empty({expert.numel()}, ints);
  const auto run = [&]<class Id>(Id*) {
    const PlanArguments<Id> arguments{.expert = read<Id>(ids),
                                      .tokens = expert.size(0),
                                      .slots = expert.size(1),
                                      .experts = experts,
                                      .rows = rows,
                                      .align = align,
                                      .before = write<int32_t>(before),
                                      .totals = write<int32_t>(totals),
                                      .row = write<int32_t>(row),
                                      .offsets = write<int32_t>(out.offsets),
                                      .slot = write<int32_t>(out.slot),
                                      .place = write<int32_t>(out.place)};
    return launch_row_plan(arguments, stream());
  };
  launch_on_device(expert, [&] {
    return ids.scalar_type() == at::kLong ? run(static_cast<int64_t*>(nullptr)) : run(static_cast<int32_t*>(nullptr));
  });
  return out;
}

at::Tensor weight_of_rows_cuda(const at::Tensor& weight, const RowPlan& row_plan) {
  const Plan plan(row_plan);
  const at::Tensor from = laid_out(weight), out = at::empty({row_plan.rows()}, weight.options());
  launch_wide(from,
              [&]<class F>(F*) { return launch_weight_of_rows(plan.view(), read<F>(from), write<F>(out), stream()); });
  return out;
}

at::Tensor slots_of_rows_cuda(const at::Tensor& value, const RowPlan& row_plan) {
  const Plan plan(row_plan);
  const at::Tensor from = laid_out(value), out = at::zeros(row_plan.place.sizes(), value.options());
  launch_wide(from,
              [&]<class F>(F*) { return launch_slots_of_rows(plan.view(), read<F>(from), write<F>(out), stream()); });
  return out;
}

at::Tensor gather_rows_cuda(const at::Tensor& x, const RowPlan& row_plan) {
  const Plan plan(row_plan);
  const at::Tensor from = laid_out(x), out = at::empty({row_plan.rows(), x.size(1)}, x.options());
  const int64_t width = x.size(1), piece = static_cast<int64_t>(sizeof(Chunk)) / x.element_size();
  launch(x, [&]<class T>(T*) {
    if (!are_whole(width, piece, {from, out})) {
      return launch_gather<T>(plan.view(), read<T>(from), width, write<T>(out), stream());
    }
    return launch_gather(plan.view(), read<Chunk>(from), width / piece, write<Chunk>(out), stream());
  });
  return out;
}

at::Tensor combine_rows_cuda(const at::Tensor& rows, const at::Tensor& bias, const at::Tensor& weight,
                             const RowPlan& row_plan) {
  const Plan plan(row_plan);
  const at::Tensor from = laid_out(rows), b = laid_out_bias(bias, rows), w = laid_out(weight, wide_type(rows));
  const at::Tensor out = at::empty({row_plan.tokens(), rows.size(1)}, rows.options());
  launch(rows, [&]<class T>(T*) {
    const CombineArguments<T> arguments{.plan = plan.view(),
                                        .rows = read<T>(from),
                                        .bias = biases<T>(b, rows, rows.size(1)),
                                        .weight = read<Wide<T>>(w),
                                        .width = rows.size(1),
                                        .whole = have_whole_spans<T>(rows.size(1), {from, out}),
                                        .out = write<T>(out)};
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
    const SpreadArguments<T> arguments{.plan = plan.view(),
                                       .gradient = read<T>(g),
                                       .rows = read<T>(held),
                                       .weight = read<Wide<T>>(w),
                                       .width = gradient.size(1),
                                       .whole = have_whole_spans<T>(gradient.size(1), {g, held, of_rows}),
                                       .of_rows = write<T>(of_rows),
                                       .of_weight = write<Wide<T>>(of_weight)};
    return launch_spread(arguments, stream());
  });
  return {of_rows, of_weight};
}

at::Tensor hidden_rows_cuda(at::Tensor& pre, const at::Tensor& bias, const RowPlan& row_plan, const MlpOptions& options,
                            bool keep_pre) {
  const Plan plan(row_plan);
  pre = pre.contiguous();
  const int64_t units = is_gated(options.activation) ? pre.size(1) / 2 : pre.size(1);
  const at::Tensor b = laid_out_bias(bias, pre), after = at::empty({pre.size(0), units}, pre.options());
  launch(pre, [&]<class T>(T*) {
    HiddenArguments<T> arguments = hidden_arguments<T>(plan, units, options);
    arguments.whole = have_whole_spans<T>(units, {pre, after});
    arguments.bias = biases<T>(b, pre, units);
    arguments.keep_pre = keep_pre;
    arguments.pre = write<T>(pre);
    arguments.after = write<T>(after);
    return launch_hidden(arguments, stream());
  });
  return after;
}

HiddenGradients hidden_rows_backward_cuda(const at::Tensor& pre, OutputGradient gradient, const RowPlan& row_plan,
                                          const MlpOptions& options) {
  const Plan plan(row_plan);
  const int64_t units = is_gated(options.activation) ? pre.size(1) / 2 : pre.size(1);
  const at::Tensor kept = laid_out(pre), through = laid_out(gradient.through), of_rows = laid_out(gradient.of_rows);
  const at::Tensor scale = laid_out(gradient.scale, wide_type(pre)), bias = laid_out_bias(gradient.bias, pre);
  HiddenGradients out;
  out.after = through.defined() ? through : at::empty({pre.size(0), units}, pre.options());  // in its place, by element
  if (through.defined()) {
    out.pre = at::empty_like(kept);
    out.dot = at::empty({pre.size(0)}, scale.options());
  }
  launch(pre, [&]<class T>(T*) {
    HiddenArguments<T> arguments = hidden_arguments<T>(plan, units, options);
    arguments.whole = have_whole_spans<T>(units, {kept, through, out.after, out.pre});
    arguments.pre = const_cast<T*>(read<T>(kept));  // not written to on the way back
    arguments.after = write<T>(out.after);
    arguments.through = read<T>(through);
    arguments.scale = read<Wide<T>>(scale);
    arguments.of_pre = write<T>(out.pre);
    const int64_t width = of_rows.size(1);
    return launch_hidden_backward(arguments, read<T>(of_rows), biases<T>(bias, pre, width), width,
                                  have_whole_spans<T>(width, {of_rows}), write<Wide<T>>(out.dot), stream());
  });
  return out;
}

void zero_empty_groups_cuda(at::Tensor& matrices, const at::Tensor& offsets) {
  const at::Tensor ends = laid_out(offsets);
  const int64_t experts = matrices.size(0), size = matrices.size(1) * matrices.size(2);
  launch(matrices, [&]<class T>(T*) {
    return launch_zero_empty(read<int32_t>(ends), experts, size, write<T>(matrices), stream());
  });
}

at::Tensor column_sums_cuda(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& scale) {
  constexpr int64_t kRowsOfAPiece = 64, kMaxPieces = 32;  // so that few experts keep many blocks busy
  const at::Tensor from = laid_out(rows), ends = laid_out(offsets), factor = laid_out(scale, wide_type(rows));
  const int64_t experts = offsets.size(0) - 1, width = rows.size(1);
  const int64_t pieces =
      std::clamp<int64_t>(rows.size(0) / (std::max<int64_t>(experts, 1) * kRowsOfAPiece), 1, kMaxPieces);
  const at::Tensor out = at::empty({pieces, experts, width}, rows.options().dtype(wide_type(rows)));
  launch(rows, [&]<class T>(T*) {
    const ColumnSumsArguments<T> arguments{.plan = {read<int32_t>(ends), nullptr, nullptr, experts, 0, 0, rows.size(0)},
                                           .rows = read<T>(from),
                                           .scale = read<Wide<T>>(factor),
                                           .width = width,
                                           .whole = have_whole_spans<T>(width, {from}),
                                           .out = write<Wide<T>>(out)};
    return launch_column_sums(arguments, pieces, stream());
  });
  return pieces == 1 ? out.select(0, 0) : at::sum(out, {0});
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
