// The operators smoe::dispatch and smoe::combine. All shapes follow from those of the inputs, so both can be traced.
#include "smoe/kernels/dispatch.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <tuple>

#include "smoe/base/error.h"
#include "smoe/kernels/row_moves.h"
#include "smoe/tensor/maybe_tensor.h"
#include "smoe/tensor/one_device.h"

namespace smoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using FourTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

/// smoe::dispatch.
FourTensors dispatch_kernel(const at::Tensor& x, const at::Tensor& expert, int64_t experts, int64_t align) {
  require(x.dim() == 2 && expert.dim() == 2 && x.size(0) == expert.size(0),
          "dispatch: x must be [T, D] and expert [T, K], got ", x.sizes(), " and ", expert.sizes());
  require_one_device("dispatch", {&x, &expert});
  const RowPlan plan = make_row_plan(expert, experts, align);
  return {gather_rows(x, plan), plan.offsets, plan.slot, plan.place};
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): kernels of the dispatcher take a SymInt by value
FourTensors dispatch_meta(const at::Tensor& x, const at::Tensor& expert, c10::SymInt experts, int64_t align) {
  TORCH_CHECK(x.dim() == 2 && expert.dim() == 2, "dispatch: x must be [T, D] and expert [T, K]");
  require_one_device("dispatch", {&x, &expert});
  const c10::SymInt tokens = expert.sym_size(0), slots = expert.sym_size(1);
  const c10::SymInt rows = rows_of_slots(tokens * slots, experts, align);
  const auto ints = x.options().dtype(at::kInt);
  return {at::empty_symint({rows, x.sym_size(1)}, x.options()), at::empty_symint({experts + 1}, ints),
          at::empty_symint({rows}, ints), at::empty_symint({tokens, slots}, ints)};
}

void check_plan(const char* what, const RowPlan& plan, const MaybeTensor& weight) {
  require(plan.slot.dim() == 1 && plan.place.dim() == 2 && plan.slot.scalar_type() == at::kInt &&
              plan.place.scalar_type() == at::kInt,
          what, ": slot must be int32 [R] and place int32 [T, K], as dispatch gives them, got ",
          plan.slot.scalar_type(), " ", plan.slot.sizes(), " and ", plan.place.scalar_type(), " ", plan.place.sizes());
  require(!weight || weight->sizes() == plan.place.sizes(), what, ": weight must be [T, K] = ", plan.place.sizes(),
          ", got ", weight ? weight->sizes() : at::IntArrayRef());
}

/// smoe::combine.
at::Tensor combine_kernel(const at::Tensor& rows, const MaybeTensor& weight, const at::Tensor& slot,
                          const at::Tensor& place) {
  const RowPlan plan{.offsets = {}, .slot = slot, .place = place};
  const at::Tensor w = weight.value_or(at::Tensor());
  require_one_device("combine", {&rows, &w, &slot, &place});
  check_plan("combine", plan, weight);
  require(rows.dim() == 2 && rows.size(0) == plan.rows(), "combine: rows must be [R = ", plan.rows(), ", D], got ",
          rows.sizes());
  return combine_rows(rows, w, plan);
}

at::Tensor combine_meta(const at::Tensor& rows, const MaybeTensor& weight, const at::Tensor& slot,
                        const at::Tensor& place) {
  const at::Tensor w = weight.value_or(at::Tensor());
  require_one_device("combine", {&rows, &w, &slot, &place});
  return at::empty_symint({place.sym_size(0), rows.sym_size(1)}, rows.options());
}

using TwoTensors = std::tuple<at::Tensor, at::Tensor>;

/// smoe::combine_backward, the gradients of rows and, where `rows` is there, of weight (else an empty tensor).
TwoTensors combine_backward_kernel(const at::Tensor& gradient, const MaybeTensor& rows, const MaybeTensor& weight,
                                   const at::Tensor& slot, const at::Tensor& place) {
  const RowPlan plan{.offsets = {}, .slot = slot, .place = place};
  const at::Tensor y = rows.value_or(at::Tensor()), w = weight.value_or(at::Tensor());
  require_one_device("combine_backward", {&gradient, &y, &w, &slot, &place});
  check_plan("combine_backward", plan, weight);
  require(gradient.dim() == 2 && gradient.size(0) == plan.tokens() &&
              (!rows || rows->sizes() == at::IntArrayRef({plan.rows(), gradient.size(1)})),
          "combine_backward: gradient must be [T = ", plan.tokens(), ", D] and rows [R = ", plan.rows(), ", D], got ",
          gradient.sizes(), " and ", rows ? rows->sizes() : at::IntArrayRef());
  auto [of_rows, of_weight] = combine_rows_backward(gradient, y, w, plan);
  if (!of_weight.defined()) return {of_rows, at::empty({0}, gradient.options())};
  return {of_rows, weight ? of_weight.to(weight->scalar_type()) : of_weight};
}

TwoTensors combine_backward_meta(const at::Tensor& gradient, const MaybeTensor& rows, const MaybeTensor& weight,
                                 const at::Tensor& slot, const at::Tensor&) {
  return {at::empty_symint({slot.sym_size(0), gradient.sym_size(1)}, gradient.options()),
          rows && weight ? at::empty_like(*weight, at::MemoryFormat::Contiguous) : at::empty({0}, gradient.options())};
}

at::Tensor call_combine(const at::Tensor& rows, const MaybeTensor& weight, const at::Tensor& slot,
                        const at::Tensor& place) {
  static const auto kOperator =
      c10::Dispatcher::singleton().findSchemaOrThrow("smoe::combine", "").typed<decltype(combine_kernel)>();
  return kOperator.call(rows, weight, slot, place);
}

using DispatchSignature = FourTensors(const at::Tensor&, const at::Tensor&, c10::SymInt, int64_t);

FourTensors call_dispatch(const at::Tensor& x, const at::Tensor& expert, c10::SymInt experts, int64_t align) {
  static const auto kOperator =
      c10::Dispatcher::singleton().findSchemaOrThrow("smoe::dispatch", "").typed<DispatchSignature>();
  return kOperator.call(x, expert, std::move(experts), align);
}

class DispatchFunction : public torch::autograd::Function<DispatchFunction> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& expert,
                               const c10::SymInt& experts, int64_t align) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [rows, offsets, slot, place] = call_dispatch(x, expert, experts, align);
    context->mark_non_differentiable({offsets, slot, place});
    context->save_for_backward({slot, place});
    return {rows, offsets, slot, place};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list plan = context->get_saved_variables();
    const at::Tensor none;
    return {call_combine(gradients[0], std::nullopt, plan[0], plan[1]), none, none, none};
  }
};

class CombineFunction : public torch::autograd::Function<CombineFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows, const MaybeTensor& weight,
                            const at::Tensor& slot, const at::Tensor& place) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const bool weight_wanted = weight && weight->requires_grad();
    context->save_for_backward({weight_wanted ? rows : at::Tensor(), weight.value_or(at::Tensor()), slot, place});
    return call_combine(rows, weight, slot, place);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    static const auto kOperator = c10::Dispatcher::singleton()
                                      .findSchemaOrThrow("smoe::combine_backward", "")
                                      .typed<decltype(combine_backward_kernel)>();
    const variable_list saved = context->get_saved_variables();
    const auto [of_rows, of_weight] =
        kOperator.call(gradients[0], given(saved[0]), given(saved[1]), saved[2], saved[3]);
    const at::Tensor none;
    return {of_rows, saved[0].defined() ? of_weight : none, none, none};
  }
};

// NOLINTNEXTLINE(performance-unnecessary-value-param): as above
FourTensors dispatch_with_autograd(const at::Tensor& x, const at::Tensor& expert, c10::SymInt experts, int64_t align) {
  const variable_list out = DispatchFunction::apply(x, expert, experts, align);
  return {out[0], out[1], out[2], out[3]};
}

at::Tensor combine_with_autograd(const at::Tensor& rows, const MaybeTensor& weight, const at::Tensor& slot,
                                 const at::Tensor& place) {
  return CombineFunction::apply(rows, weight, slot, place);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(smoe, m) {
  m.def(
      "dispatch(Tensor x, Tensor expert, SymInt experts, int align=1) "
      "-> (Tensor rows, Tensor offsets, Tensor slot, Tensor place)");
  m.def("combine(Tensor rows, Tensor? weight, Tensor slot, Tensor place) -> Tensor");
  m.def(
      "combine_backward(Tensor gradient, Tensor? rows, Tensor? weight, Tensor slot, Tensor place) "
      "-> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(smoe, Autograd, m) {
  m.impl("dispatch", dispatch_with_autograd);
  m.impl("combine", combine_with_autograd);
  m.impl("combine_backward", torch::autograd::autogradNotImplementedFallback());
}
TORCH_LIBRARY_IMPL(smoe, CPU, m) {
  m.impl("dispatch", dispatch_kernel);
  m.impl("combine", combine_kernel);
  m.impl("combine_backward", combine_backward_kernel);
}
TORCH_LIBRARY_IMPL(smoe, CUDA, m) {
  m.impl("dispatch", dispatch_kernel);
  m.impl("combine", combine_kernel);
  m.impl("combine_backward", combine_backward_kernel);
}
TORCH_LIBRARY_IMPL(smoe, Meta, m) {
  m.impl("dispatch", dispatch_meta);
  m.impl("combine", combine_meta);
  m.impl("combine_backward", combine_backward_meta);
}

Dispatched dispatch(const at::Tensor& x, const at::Tensor& expert, int64_t experts, int64_t align) {
  const auto [rows, offsets, slot, place] = call_dispatch(x, expert, experts, align);
  return {rows, {offsets, slot, place}};
}

at::Tensor combine(const at::Tensor& rows, const at::Tensor& weight, const RowPlan& plan) {
  return call_combine(rows, given(weight), plan.slot, plan.place);
}

}  // namespace smoe
