// How many experts are active at a step of training: the schedules of SMoE-Dropout.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "smoe/base/config.h"
#include "smoe/tensor/random_stream.h"

namespace smoe {

/// The table [k_schedule] of a recipe.
struct KScheduleConfig {
  std::string kind = "linear";
  int64_t min = 8;
  int64_t max = 16;

  void describe(Fields& fields);
};

/// k as a function of the number of updates made, s = 0 … steps − 1 (Chen et al. 2023; rounding is half to even, the
/// result is clipped to [min, max]). From s = steps on, k is what it was at the last step of the schedule. A schedule that
/// draws k has number s of its stream decide at step s, so that a run that resumes draws as if it had never stopped.
class KSchedule {
 public:
  /// `steps` > 0 is the length T of the schedule; `random` is where a schedule that draws k draws from.
  KSchedule(const KScheduleConfig& config, int64_t steps, const RandomStream& random);

  int64_t k(int64_t step) const;
  /// The mean of k over the steps 0 … steps − 1.
  double mean() const;

 private:
  KScheduleConfig config_;
  int64_t steps_;
  RandomStream random_;
  std::function<int64_t(const KScheduleConfig&, int64_t step, int64_t steps, const RandomStream&)> before_clip_;
};

/// A kind of schedule as the table of kinds lists it.
struct KScheduleKind {
  std::string name;
  std::string summary;
  /// k before the clip, for 0 ≤ step < steps.
  int64_t (*k)(const KScheduleConfig&, int64_t step, int64_t steps, const RandomStream& random);
};

const std::vector<KScheduleKind>& k_schedule_kinds();

}  // namespace smoe
