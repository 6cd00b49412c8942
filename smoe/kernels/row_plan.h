// A routing from the rows' side: where each of its slots stands when rows are grouped by expert, as tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <cstdint>

namespace smoe {

/// Rows grouped by ascending expert id, within an expert by ascending token. All int32, on the routing's device. How many
/// rows there are stands in `offsets` and shows in no shape, so that neither a GPU nor a tracer has to wait for it.
struct RowPlan {
  at::Tensor offsets;  ///< [E + 1] first row of each expert's group, the last entry is where the last group ends
  at::Tensor slot;     ///< [R] which slot of the routing, t · K + s, a row stands for; T · K where it stands for none
  at::Tensor place;    ///< [T, K] each token's rows, ascending and so in ascending expert id; R where there is no more

  int64_t tokens() const { return place.size(0); }
  int64_t slots() const { return place.size(1); }
  int64_t rows() const { return slot.size(0); }
};

/// R for so many slots: as many for align 1, else enough for groups that begin at multiples of align.
int64_t rows_of_slots(int64_t slots, int64_t experts, int64_t align);
c10::SymInt rows_of_slots(const c10::SymInt& slots, const c10::SymInt& experts, int64_t align);

/// The plan of expert [T, K], int32 or int64; ids outside [0, experts) are empty slots. Groups begin at multiples of
/// `align`, and what fills one up stands for no slot. On a CPU and by our CUDA kernels by counting, elsewhere by sorting.
/// Throws UserError where R is not less than 2³¹ − 1.
RowPlan make_row_plan(const at::Tensor& expert, int64_t experts, int64_t align);

/// The same plan in LibTorch's operators, on any device and without waiting for it.
RowPlan row_plan_by_sorting(const at::Tensor& expert, int64_t experts, int64_t align);

/// The expert of each of so many rows, int64 [rows]; E for rows past the last group.
at::Tensor expert_of_rows(const at::Tensor& offsets, int64_t rows);

}  // namespace smoe
