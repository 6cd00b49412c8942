#include "smoe/kernels/row_moves.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "smoe/base/error.h"
#include "smoe/kernels/row_kernels.h"

namespace smoe {
namespace {

template <class Scalar>
using Accumulator = std::conditional_t<std::is_same_v<Scalar, double>, double, float>;

at::ScalarType sum_type(const at::Tensor& t) { return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

/// Calls f with a number of the dtype of `rows`.
template <class F>
void for_type(const at::Tensor& rows, const F& f) {
  switch (rows.scalar_type()) {
    case at::kFloat: f(float{}); return;
    case at::kDouble: f(double{}); return;
    case at::kBFloat16: f(c10::BFloat16{}); return;
    default:
      throw UserError(concat("rows grouped by expert cannot be ", rows.scalar_type(), "; use fp32, fp64 or bf16"));
  }
}

/// Calls f(begin, end) for pieces of `count` rows of so many numbers each.
template <class F>
void for_rows(int64_t count, int64_t numbers, const F& f) {
  at::parallel_for(0, count, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, numbers)), f);
}

/// A plan's numbers on a CPU. What points outside of its range, as only a plan made by hand does, is empty.
struct Places {
  explicit Places(const RowPlan& plan)
      : slot_tensor(plan.slot.contiguous()),
        place_tensor(plan.place.contiguous()),
        slot(slot_tensor.const_data_ptr<int32_t>()),
        place(place_tensor.const_data_ptr<int32_t>()),
        rows(plan.rows()),
        tokens(plan.tokens()),
        slots(plan.slots()) {}

  bool is_used(int64_t row) const { return row >= 0 && row < rows && slot[row] >= 0 && slot[row] < tokens * slots; }
  int64_t token_of(int64_t row) const { return slot[row] / slots; }

  at::Tensor slot_tensor, place_tensor;
  const int32_t *slot, *place;
  int64_t rows, tokens, slots;
};

template <class Scalar>
void sum_rows(const at::Tensor& rows, const Places& at, const at::Tensor& weight, at::Tensor& out) {
  using Sum = Accumulator<Scalar>;
  const int64_t width = rows.size(1);
  const Scalar* row_data = rows.const_data_ptr<Scalar>();
  const Sum* weight_data = weight.defined() ? weight.const_data_ptr<Sum>() : nullptr;
  Scalar* out_data = out.mutable_data_ptr<Scalar>();
  for_rows(at.tokens, at.slots * width, [&](int64_t begin, int64_t end) {
    std::vector<Sum> sum(static_cast<size_t>(width));
    for (int64_t t = begin; t < end; ++t) {
      std::fill(sum.begin(), sum.end(), Sum(0));
      for (int64_t i = t * at.slots; i < (t + 1) * at.slots; ++i) {
        if (!at.is_used(at.place[i])) continue;
        const Scalar* row = row_data + at.place[i] * width;
        const Sum w = weight_data != nullptr ? weight_data[at.slot[at.place[i]]] : Sum(1);
        for (int64_t d = 0; d < width; ++d) sum[static_cast<size_t>(d)] += w * static_cast<Sum>(row[d]);
      }
      for (int64_t d = 0; d < width; ++d) out_data[t * width + d] = static_cast<Scalar>(sum[static_cast<size_t>(d)]);
    }
  });
}

template <class Scalar>
void copy_rows(const at::Tensor& x, const Places& at, at::Tensor& out) {
  const int64_t width = x.size(1);
  const Scalar* from = x.const_data_ptr<Scalar>();
  Scalar* to = out.mutable_data_ptr<Scalar>();
  for_rows(at.rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (at.is_used(r)) {
        std::copy_n(from + at.token_of(r) * width, width, to + r * width);
      } else {
        std::fill_n(to + r * width, width, Scalar(0));
      }
    }
  });
}

/// Both gradients in one walk over the rows; `rows` and `of_weight` may be undefined.
template <class Scalar>
void spread_rows(const at::Tensor& gradient, const at::Tensor& rows, const at::Tensor& weight, const Places& at,
                 at::Tensor& of_rows, at::Tensor& of_weight) {
  using Sum = Accumulator<Scalar>;
  const int64_t width = gradient.size(1);
  const Scalar* from = gradient.const_data_ptr<Scalar>();
  const Scalar* row_data = rows.defined() ? rows.const_data_ptr<Scalar>() : nullptr;
  const Sum* weight_data = weight.defined() ? weight.const_data_ptr<Sum>() : nullptr;
  Scalar* to = of_rows.mutable_data_ptr<Scalar>();
  Sum* dot = rows.defined() ? of_weight.mutable_data_ptr<Sum>() : nullptr;
  for_rows(at.rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (!at.is_used(r)) {
        std::fill_n(to + r * width, width, Scalar(0));
        continue;
      }
      const Scalar* g = from + at.token_of(r) * width;
      const Sum w = weight_data != nullptr ? weight_data[at.slot[r]] : Sum(1);
      for (int64_t d = 0; d < width; ++d) to[r * width + d] = static_cast<Scalar>(w * static_cast<Sum>(g[d]));
      if (dot == nullptr) continue;
      Sum sum = 0;
      for (int64_t d = 0; d < width; ++d) sum += static_cast<Sum>(g[d]) * static_cast<Sum>(row_data[r * width + d]);
      dot[at.slot[r]] = sum;
    }
  });
}

// The same in LibTorch's operators, for devices that have no body of their own.

/// The rows of x that `index` names; one past the last is a row of zeros.
at::Tensor select_rows(const at::Tensor& x, const at::Tensor& index) {
  return at::cat({x, at::zeros({1, x.size(1)}, x.options())}).index_select(0, index);
}

at::Tensor gather_anywhere(const at::Tensor& x, const RowPlan& plan) {
  return select_rows(x, plan.slots() == 0 ? plan.slot : plan.slot.floor_divide(plan.slots()));
}

at::Tensor combine_anywhere(const at::Tensor& rows, const at::Tensor& weight, const RowPlan& plan) {
  at::Tensor sum = at::zeros({plan.tokens(), rows.size(1)}, rows.options().dtype(sum_type(rows)));
  const at::Tensor w =
      weight.defined() ? at::cat({weight_of_rows(weight, plan), at::zeros({1}, sum.options())}) : weight;
  for (int64_t i = 0; i < plan.slots(); ++i) {
    const at::Tensor place = plan.place.select(1, i);
    const at::Tensor rows_here = select_rows(rows, place).to(sum.scalar_type());
    sum += weight.defined() ? rows_here * w.index_select(0, place).unsqueeze(1) : rows_here;
  }
  return sum.to(rows.scalar_type());
}

}  // namespace

at::Tensor weight_of_rows(const at::Tensor& weight, const RowPlan& plan) {
  const at::Tensor numbers = weight.to(sum_type(weight)).reshape({-1});
  if (row_kernels_take(numbers)) return weight_of_rows_cuda(numbers, plan);
  return at::cat({numbers, at::zeros({1}, numbers.options())}).index_select(0, plan.slot);
}

at::Tensor slots_of_rows(const at::Tensor& value, const RowPlan& plan) {
  if (row_kernels_take(value) && value.scalar_type() == sum_type(value)) return slots_of_rows_cuda(value, plan);
  at::Tensor out = at::zeros({plan.tokens() * plan.slots() + 1}, value.options());
  out.scatter_(0, plan.slot.to(at::kLong), value);  // rows for no slot all write past the end, what does not matter
  return out.narrow(0, 0, plan.tokens() * plan.slots()).view({plan.tokens(), plan.slots()});
}

at::Tensor gather_rows(const at::Tensor& x, const RowPlan& plan) {
  if (row_kernels_take(x)) return gather_rows_cuda(x, plan);
  if (!x.is_cpu()) return gather_anywhere(x, plan);
  at::Tensor out = at::empty({plan.rows(), x.size(1)}, x.options());
  const at::Tensor from = x.contiguous();
  for_type(x, [&](auto type) { copy_rows<decltype(type)>(from, Places(plan), out); });
  return out;
}

at::Tensor combine_rows(const at::Tensor& rows, const at::Tensor& weight, const RowPlan& plan) {
  const at::Tensor w = weight.defined() ? weight.to(sum_type(rows)).contiguous() : weight;
  if (row_kernels_take(rows)) return combine_rows_cuda(rows, {}, w, plan);
  if (!rows.is_cpu()) return combine_anywhere(rows, w, plan);
  at::Tensor out = at::empty({plan.tokens(), rows.size(1)}, rows.options());
  const at::Tensor from = rows.contiguous();
  for_type(rows, [&](auto type) { sum_rows<decltype(type)>(from, Places(plan), w, out); });
  return out;
}

std::pair<at::Tensor, at::Tensor> combine_rows_backward(const at::Tensor& gradient, const at::Tensor& rows,
                                                        const at::Tensor& weight, const RowPlan& plan) {
  const auto sums = sum_type(gradient);
  const at::Tensor w = weight.defined() ? weight.to(sums).contiguous() : weight;
  if (row_kernels_take(gradient)) return combine_rows_backward_cuda(gradient, rows, w, plan);
  if (!gradient.is_cpu()) {
    const at::Tensor spread = gather_rows(gradient, plan).to(sums);
    const at::Tensor of_rows = w.defined() ? spread * weight_of_rows(w, plan).unsqueeze(1) : spread;
    at::Tensor dot;
    if (rows.defined()) dot = slots_of_rows((spread * rows).sum(-1), plan);
    return {of_rows.to(gradient.scalar_type()), dot};
  }
  at::Tensor of_rows = at::empty({plan.rows(), gradient.size(1)}, gradient.options()), of_weight;
  if (rows.defined()) of_weight = at::zeros({plan.tokens(), plan.slots()}, gradient.options().dtype(sums));
  const at::Tensor from = gradient.contiguous(), held = rows.defined() ? rows.contiguous() : rows;
  for_type(gradient, [&](auto type) { spread_rows<decltype(type)>(from, held, w, Places(plan), of_rows, of_weight); });
  return {of_rows, of_weight};
}

}  // namespace smoe
