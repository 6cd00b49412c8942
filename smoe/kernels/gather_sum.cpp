#include "smoe/kernels/gather_sum.h"

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "smoe/base/error.h"

namespace smoe {
namespace {

template <class Scalar>
using Accumulator = std::conditional_t<std::is_same_v<Scalar, double>, double, float>;

template <class Scalar>
void sum_rows(const at::Tensor& rows, const at::Tensor& position, const at::Tensor& weight, at::Tensor& out) {
  using Sum = Accumulator<Scalar>;
  const int64_t tokens = position.size(0), slots = position.size(1), width = rows.size(1), end_row = rows.size(0);
  const Scalar* row_data = rows.const_data_ptr<Scalar>();
  const int64_t* position_data = position.const_data_ptr<int64_t>();
  const Sum* weight_data = weight.defined() ? weight.const_data_ptr<Sum>() : nullptr;
  Scalar* out_data = out.mutable_data_ptr<Scalar>();
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, slots * width));
  at::parallel_for(0, tokens, grain, [&](int64_t begin, int64_t end) {
    std::vector<Sum> sum(static_cast<size_t>(width));
    for (int64_t t = begin; t < end; ++t) {
      std::fill(sum.begin(), sum.end(), Sum(0));
      for (int64_t s = t * slots; s < (t + 1) * slots; ++s) {
        if (position_data[s] == end_row) continue;
        const Scalar* row = row_data + position_data[s] * width;
        const Sum w = weight_data != nullptr ? weight_data[s] : Sum(1);
        for (int64_t d = 0; d < width; ++d) sum[static_cast<size_t>(d)] += w * static_cast<Sum>(row[d]);
      }
      for (int64_t d = 0; d < width; ++d) out_data[t * width + d] = static_cast<Scalar>(sum[static_cast<size_t>(d)]);
    }
  });
}

/// The same sum in LibTorch's operators, for devices that have no body of their own.
at::Tensor sum_rows_anywhere(const at::Tensor& rows, const at::Tensor& position, const at::Tensor& weight) {
  const auto sum_type = rows.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor padded = at::cat({rows, at::zeros({1, rows.size(1)}, rows.options())});
  at::Tensor sum = at::zeros({position.size(0), rows.size(1)}, rows.options().dtype(sum_type));
  for (int64_t s = 0; s < position.size(1); ++s) {
    const at::Tensor at_slot = padded.index_select(0, position.select(1, s)).to(sum_type);
    sum += weight.defined() ? at_slot * weight.select(1, s).unsqueeze(1) : at_slot;
  }
  return sum.to(rows.scalar_type());
}

}  // namespace

at::Tensor gather_sum(const at::Tensor& rows, const at::Tensor& position, const at::Tensor& weight) {
  const auto sum_type = rows.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor w = weight.defined() ? weight.to(sum_type).contiguous() : weight;
  if (!rows.device().is_cpu()) return sum_rows_anywhere(rows, position, w);
  const at::Tensor source = rows.contiguous(), places = position.contiguous();
  at::Tensor out = at::empty({position.size(0), rows.size(1)}, rows.options());
  switch (rows.scalar_type()) {
    case at::kFloat: sum_rows<float>(source, places, w, out); break;
    case at::kDouble: sum_rows<double>(source, places, w, out); break;
    case at::kBFloat16: sum_rows<c10::BFloat16>(source, places, w, out); break;
    default:
      throw UserError(concat("combine: dtype ", rows.scalar_type(), " is not supported; use fp32, fp64 or bf16"));
  }
  return out;
}

}  // namespace smoe
