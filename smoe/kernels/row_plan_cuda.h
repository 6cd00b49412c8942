// A row plan (kernels/row_plan.h) made on a GPU by counting, launched on a stream; without LibTorch.
#pragma once

#include <cstdint>

#include "smoe/kernels/row_kernels_cuda.h"

namespace smoe {

/// Experts that a block's shared memory has counters for.
inline constexpr int64_t kMaxPlanExperts = 1024;

/// Slots that one warp counts and places, in their order.
inline constexpr int64_t kPlanSegment = 128;

/// Warps of a block, each with its counters.
inline constexpr int64_t kPlanWarps = 8;

inline int64_t plan_segments(int64_t slots) { return (slots + kPlanSegment - 1) / kPlanSegment; }

/// What the kernels read and write, int32 but for the ids.
template <class Id>
struct PlanArguments {
  const Id* expert;                      ///< [T · K]
  int64_t tokens, slots, experts, rows;  ///< T, K, E, R
  int64_t align;
  int32_t* before;   ///< [E, segments], for the kernels: slots of each expert before each segment
  int32_t* totals;   ///< [E], for the kernels: slots of each expert
  int32_t* row;      ///< [T · K], for the kernels: the row of each slot
  int32_t* offsets;  ///< [E + 1]
  int32_t* slot;     ///< [R]
  int32_t* place;    ///< [T, K]
};

/// For at least one slot and one expert, and at most kMaxPlanExperts.
template <class Id>
const char* launch_row_plan(const PlanArguments<Id>& arguments, CudaStream stream);

}  // namespace smoe
