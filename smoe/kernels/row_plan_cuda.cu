// Counting sort of slots by expert. A warp owns a segment of consecutive slots: it counts them by expert, learns how many
// each expert has before its segment, and gives out rows in the order of the slots. What threads add to is counters of
// their own warp, so that each plan is the only one there can be.
#include "smoe/kernels/row_plan_cuda.h"

#include "smoe/kernels/cuda_threads.h"

namespace smoe {
namespace {

__device__ int64_t segment_of_warp() { return blockIdx.x * kPlanWarps + threadIdx.x / kWarp; }

/// The inclusive sum over the lanes up to this one.
__device__ int32_t sum_up_to_lane(int32_t value) {
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int32_t other = __shfl_up_sync(kAllLanes, value, distance);
    if (lane() >= distance) value += other;
  }
  return value;
}

/// Calls visit(slot, expert, rank, peers) for the slots of a segment, 32 at a time in their order: among the slots of the
/// step, `rank` is how many with the same expert come before, `peers` how many there are. Slots that are empty, or past
/// the end, have expert −1.
template <class Id, class Visit>
__device__ void walk_segment(const PlanArguments<Id>& a, int64_t segment, const Visit& visit) {
  const int64_t count = a.tokens * a.slots;
  for (int64_t step = 0; step < kPlanSegment; step += kWarp) {
    const int64_t slot = segment * kPlanSegment + step + lane();
    const int64_t id = slot < count ? static_cast<int64_t>(a.expert[slot]) : -1;
    const int expert = id >= 0 && id < a.experts ? static_cast<int>(id) : -1;
    const unsigned same = __match_any_sync(kAllLanes, expert);
    visit(slot, expert, __popc(same & ((1u << lane()) - 1)), __popc(same));
    __syncwarp();
  }
}

template <class Id>
__global__ void count_kernel(PlanArguments<Id> a, int64_t segments) {
  extern __shared__ int32_t counters[];
  const int64_t segment = segment_of_warp();
  if (segment >= segments) return;
  int32_t* own = counters + threadIdx.x / kWarp * a.experts;
  for (int64_t e = lane(); e < a.experts; e += kWarp) own[e] = 0;
  __syncwarp();
  walk_segment(a, segment, [&](int64_t, int expert, int rank, int peers) {
    if (expert >= 0 && rank == 0) own[expert] += peers;
  });
  for (int64_t e = lane(); e < a.experts; e += kWarp) a.before[e * segments + segment] = own[e];
}

/// A warp for each expert: its counts become how many there are before each segment.
template <class Id>
__global__ void scan_kernel(PlanArguments<Id> a, int64_t segments) {
  const int64_t expert = first_row();
  if (expert >= a.experts) return;
  int32_t* counts = a.before + expert * segments;
  int32_t sum = 0;
  for (int64_t begin = 0; begin < segments; begin += kWarp) {
    const int64_t i = begin + lane();
    const int32_t count = i < segments ? counts[i] : 0, up_to = sum_up_to_lane(count);
    if (i < segments) counts[i] = sum + up_to - count;
    sum += __shfl_sync(kAllLanes, up_to, kWarp - 1);
  }
  if (lane() == 0) a.totals[expert] = sum;
}

template <class Id>
__global__ void place_kernel(PlanArguments<Id> a, int64_t segments) {
  extern __shared__ int32_t shared[];
  int32_t* first = shared;  // [E + 1] where each group begins
  if (threadIdx.x < kWarp) {
    int32_t sum = 0;
    for (int64_t begin = 0; begin < a.experts; begin += kWarp) {
      const int64_t e = begin + lane();
      const int64_t filled = e < a.experts ? (a.totals[e] + a.align - 1) / a.align * a.align : 0;
      const int32_t up_to = sum_up_to_lane(static_cast<int32_t>(filled));
      if (e < a.experts) first[e] = sum + up_to - static_cast<int32_t>(filled);
      sum += __shfl_sync(kAllLanes, up_to, kWarp - 1);
    }
    if (lane() == 0) first[a.experts] = sum;
  }
  __syncthreads();
  if (blockIdx.x == 0) {
    for (int64_t e = threadIdx.x; e <= a.experts; e += blockDim.x) a.offsets[e] = first[e];
  }
  // Rows that stand for no slot: what fills up the groups, and what comes after the last. The blocks share them.
  const auto none = static_cast<int32_t>(a.tokens * a.slots);
  for (int64_t e = blockIdx.x; e <= a.experts; e += gridDim.x) {
    const int64_t begin = e < a.experts ? first[e] + a.totals[e] : first[a.experts];
    const int64_t end = e < a.experts ? first[e + 1] : a.rows;
    for (int64_t row = begin + threadIdx.x; row < end; row += blockDim.x) a.slot[row] = none;
  }
  const int64_t segment = segment_of_warp();
  if (segment >= segments) return;
  int32_t* next = shared + a.experts + 1 + threadIdx.x / kWarp * a.experts;  // the row that an expert's next slot gets
  for (int64_t e = lane(); e < a.experts; e += kWarp) next[e] = first[e] + a.before[e * segments + segment];
  __syncwarp();
  walk_segment(a, segment, [&](int64_t slot, int expert, int rank, int peers) {
    const int32_t row = expert >= 0 ? next[expert] + rank : static_cast<int32_t>(a.rows);
    if (slot < none) a.row[slot] = row;
    if (expert >= 0) a.slot[row] = static_cast<int32_t>(slot);
    __syncwarp();
    if (expert >= 0 && rank == 0) next[expert] += peers;
  });
}

/// Sorts the rows of each token: a thread finds the place of one slot's row among them.
template <class Id>
__global__ void sort_kernel(PlanArguments<Id> a) {
  const int64_t count = a.tokens * a.slots;
  for (int64_t i = first_thread(); i < count; i += thread_step()) {
    const int64_t begin = i / a.slots * a.slots;
    const int32_t row = a.row[i];
    int64_t place = 0;
    for (int64_t j = begin; j < begin + a.slots; ++j) place += a.row[j] < row || (a.row[j] == row && j < i) ? 1 : 0;
    a.place[begin + place] = row;
  }
}

}  // namespace

template <class Id>
const char* launch_row_plan(const PlanArguments<Id>& a, CudaStream stream) {
  constexpr int kThreads = kPlanWarps * kWarp;
  const int64_t count = a.tokens * a.slots, segments = plan_segments(count);
  const auto blocks = static_cast<unsigned>((segments + kPlanWarps - 1) / kPlanWarps);
  const auto counters = static_cast<size_t>(kPlanWarps * a.experts) * sizeof(int32_t);
  count_kernel<<<blocks, kThreads, counters, stream>>>(a, segments);
  scan_kernel<<<static_cast<unsigned>((a.experts + kPlanWarps - 1) / kPlanWarps), kThreads, 0, stream>>>(a, segments);
  place_kernel<<<blocks, kThreads, counters + static_cast<size_t>(a.experts + 1) * sizeof(int32_t), stream>>>(a,
                                                                                                              segments);
  sort_kernel<<<blocks_for(count, kThreads), kThreads, 0, stream>>>(a);
  return launched();
}

template const char* launch_row_plan<int32_t>(const PlanArguments<int32_t>&, CudaStream);
template const char* launch_row_plan<int64_t>(const PlanArguments<int64_t>&, CudaStream);

}  // namespace smoe
