#include "smoe/kernels/row_plan.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "smoe/base/error.h"
#include "smoe/kernels/expert_rows.h"
#include "smoe/kernels/row_kernels.h"

namespace smoe {
namespace {

void check(const at::Tensor& expert, int64_t experts, int64_t align) {
  require(expert.dim() == 2, "dispatch: expert must be [T, K], got ", expert.sizes());
  require(expert.scalar_type() == at::kInt || expert.scalar_type() == at::kLong,
          "dispatch: expert must be int32 or int64, got ", expert.scalar_type());
  require(experts >= 0, "dispatch: there cannot be ", experts, " experts");
  require(align >= 1 && align <= 4096, "dispatch: align must be in [1, 4096], got ", align);
  require(rows_of_slots(expert.numel(), experts, align) < std::numeric_limits<int32_t>::max(),
          "dispatch: ", expert.numel(), " slots are too many for one call; cut the tokens into several");
}

RowPlan row_plan_by_counting(const at::Tensor& expert, int64_t experts, int64_t align) {
  const ExpertRows groups = group_by_expert(expert, experts);
  const int64_t tokens = expert.size(0), slots = expert.size(1);
  const int64_t room = rows_of_slots(expert.numel(), experts, align);
  RowPlan plan{.offsets = at::empty({experts + 1}, at::kInt),
               .slot = at::full({room}, tokens * slots, at::kInt),
               .place = at::full({tokens, slots}, room, at::kInt)};
  int32_t* offset = plan.offsets.mutable_data_ptr<int32_t>();
  int32_t* slot = plan.slot.mutable_data_ptr<int32_t>();
  int32_t* place = plan.place.mutable_data_ptr<int32_t>();
  std::vector<int64_t> met(static_cast<size_t>(tokens));  // rows of each token so far, in ascending expert id
  int64_t first = 0;
  for (int64_t e = 0; e < experts; ++e) {
    offset[e] = static_cast<int32_t>(first);
    int64_t row = first;
    for (auto i = static_cast<size_t>(groups.first[static_cast<size_t>(e)]);
         std::cmp_less(i, groups.first[static_cast<size_t>(e) + 1]); ++i) {
      const int64_t token = groups.token[i];
      slot[row] = static_cast<int32_t>(groups.slot[i]);
      place[token * slots + met[static_cast<size_t>(token)]++] = static_cast<int32_t>(row++);
    }
    first = (row + align - 1) / align * align;
  }
  offset[experts] = static_cast<int32_t>(first);
  return plan;
}

}  // namespace

int64_t rows_of_slots(int64_t slots, int64_t experts, int64_t align) {
  return (slots + std::min(slots, experts) * (align - 1)) / align * align;
}

c10::SymInt rows_of_slots(const c10::SymInt& slots, const c10::SymInt& experts, int64_t align) {
  if (align == 1) return slots;
  return (slots + slots.min(experts) * (align - 1)) / align * align;
}

RowPlan make_row_plan(const at::Tensor& expert, int64_t experts, int64_t align) {
  check(expert, experts, align);
  if (row_plan_cuda_takes(expert, experts)) return row_plan_cuda(expert, experts, align);
  return expert.is_cpu() ? row_plan_by_counting(expert, experts, align) : row_plan_by_sorting(expert, experts, align);
}

RowPlan row_plan_by_sorting(const at::Tensor& expert, int64_t experts, int64_t align) {
  check(expert, experts, align);
  const int64_t count = expert.numel(), room = rows_of_slots(count, experts, align);
  const auto ints = expert.options().dtype(at::kInt), longs = expert.options().dtype(at::kLong);
  const at::Tensor ids = expert.reshape({-1}), is_empty = ids.lt(0).logical_or_(ids.ge(experts));
  const auto [sorted, order] =
      at::sort(ids.masked_fill(is_empty, experts).to(at::kInt), /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const at::Tensor first = at::searchsorted(sorted, at::arange(experts + 1, ints));  // of each group in `sorted`
  const at::Tensor begin = first.narrow(0, 0, experts);
  const at::Tensor filled = (first.narrow(0, 1, experts) - begin + (align - 1)).floor_divide(align) * align;
  const at::Tensor offsets = at::cat({at::zeros({1}, longs), filled.cumsum(0)});
  // Empty slots come last and go to a row past the end, which is cut off again.
  const at::Tensor shift = at::cat({offsets.narrow(0, 0, experts) - begin, at::zeros({1}, longs)});
  const at::Tensor row = at::where(sorted.lt(experts), at::arange(count, longs) + shift.index_select(0, sorted),
                                   at::full({}, room, longs));
  const at::Tensor slot = at::full({room + 1}, count, longs).scatter_(0, row, order).narrow(0, 0, room);
  const at::Tensor place = at::empty({count}, longs).scatter_(0, order, row).view(expert.sizes());
  return {offsets.to(at::kInt), slot.to(at::kInt), std::get<0>(at::sort(place, /*dim=*/1)).to(at::kInt)};
}

at::Tensor expert_of_rows(const at::Tensor& offsets, int64_t rows) {
  const at::Tensor ends = offsets.narrow(0, 1, offsets.size(0) - 1).contiguous();
  return at::searchsorted(ends, at::arange(rows, offsets.options()), /*out_int32=*/false, /*right=*/true);
}

}  // namespace smoe
