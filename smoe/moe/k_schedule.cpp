#include "smoe/moe/k_schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "smoe/base/error.h"
#include "smoe/base/suggest.h"

namespace smoe {
namespace {

/// Half to even, which is the default rounding mode.
int64_t round_half_even(double value) { return static_cast<int64_t>(std::nearbyint(value)); }

int64_t constant(const KScheduleConfig& c, int64_t, int64_t, const RandomStream&) { return c.max; }

int64_t linear(const KScheduleConfig& c, int64_t s, int64_t T, const RandomStream&) {
  return round_half_even(static_cast<double>((c.max - c.min) * s) / static_cast<double>(T)) + c.min;
}

int64_t linear_decrease(const KScheduleConfig& c, int64_t s, int64_t T, const RandomStream&) {
  return round_half_even(static_cast<double>((c.min - c.max) * s) / static_cast<double>(T)) + c.max;
}

double quarter_wave(int64_t s, int64_t T) {
  return std::cos(std::numbers::pi * static_cast<double>(s) / static_cast<double>(2 * T));
}

int64_t cosine(const KScheduleConfig& c, int64_t s, int64_t T, const RandomStream&) {
  return round_half_even(static_cast<double>(c.min - c.max) * quarter_wave(s, T)) + c.max;
}

int64_t cosine_decrease(const KScheduleConfig& c, int64_t s, int64_t T, const RandomStream&) {
  return round_half_even(static_cast<double>(c.max - c.min) * quarter_wave(s, T)) + c.min;
}

int64_t exponential(const KScheduleConfig& c, int64_t s, int64_t T, const RandomStream&) {
  // Runs shorter than 300 steps divide by zero in the published code; here they take one stair a step.
  const int64_t stair = s / std::max<int64_t>(1, T / 300);
  return round_half_even(static_cast<double>(c.min - c.max) * std::pow(0.99, static_cast<double>(stair))) + c.max;
}

constexpr std::array<int64_t, 5> kStairs = {1, 2, 4, 8, 16};

int64_t multi_step(const KScheduleConfig&, int64_t s, int64_t T, const RandomStream&) {
  return kStairs[static_cast<size_t>(5 * s / T)];
}

int64_t multi_step_decrease(const KScheduleConfig&, int64_t s, int64_t T, const RandomStream&) {
  return kStairs[static_cast<size_t>(4 - 5 * s / T)];
}

int64_t random(const KScheduleConfig& c, int64_t s, int64_t, const RandomStream& stream) {
  const double u = stream.uniform(static_cast<uint64_t>(s));
  return c.min + static_cast<int64_t>(u * static_cast<double>(c.max - c.min + 1));
}

}  // namespace

const std::vector<KScheduleKind>& k_schedule_kinds() {
  static const std::vector<KScheduleKind> kKinds = {
      {"linear", "min to max in equal stairs (the paper's default)", linear},
      {"linear_decrease", "max to min in equal stairs", linear_decrease},
      {"cosine", "min to max along a quarter wave: slow start, fast end", cosine},
      {"cosine_decrease", "max to min along a quarter wave", cosine_decrease},
      {"exponential", "min towards max, 300 stairs of 0.99; a wide range ends below max", exponential},
      {"multi_step", "1, 2, 4, 8, 16 for a fifth of the steps each, clipped to [min, max]", multi_step},
      {"multi_step_decrease", "16, 8, 4, 2, 1 for a fifth of the steps each, clipped to [min, max]",
       multi_step_decrease},
      {"constant", "always max", constant},
      {"random", "drawn anew for each step, min to max equally likely", random},
  };
  return kKinds;
}

void KScheduleConfig::describe(Fields& fields) {
  std::vector<std::string> kinds;
  for (const KScheduleKind& entry : k_schedule_kinds()) kinds.push_back(entry.name);
  fields.add("kind", &kind, "how k, the number of active experts, changes over the run", one_of(kinds));
  fields.add("min", &min, "smallest k", at_least(1));
  fields.add("max", &max, "largest k", at_least(1));
}

KSchedule::KSchedule(const KScheduleConfig& config, int64_t steps, const RandomStream& random)
    : config_(config), steps_(steps), random_(random) {
  require(config.min <= config.max, "k_schedule.min = ", config.min, " is larger than k_schedule.max = ", config.max);
  require(steps >= 1, "a k schedule needs at least one step, got ", steps);
  std::vector<std::string> names;
  for (const KScheduleKind& kind : k_schedule_kinds()) {
    names.push_back(kind.name);
    if (kind.name == config.kind) before_clip_ = kind.k;
  }
  require(before_clip_ != nullptr, "k_schedule.kind '", config.kind, "' is not known", suggest(config.kind, names));
}

int64_t KSchedule::k(int64_t step) const {
  const int64_t s = std::min(step, steps_ - 1);
  return std::clamp(before_clip_(config_, s, steps_, random_), config_.min, config_.max);
}

double KSchedule::mean() const {
  int64_t sum = 0;
  for (int64_t s = 0; s < steps_; ++s) sum += k(s);
  return static_cast<double>(sum) / static_cast<double>(steps_);
}

}  // namespace smoe
