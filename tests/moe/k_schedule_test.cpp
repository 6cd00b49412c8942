// The schedules of SMoE-Dropout against the change points and means that are published for T = 400 000.
#include "smoe/moe/k_schedule.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

constexpr int64_t kSteps = 400000;

KSchedule schedule(const std::string& kind, int64_t min, int64_t max, int64_t steps = kSteps) {
  return KSchedule({.kind = kind, .min = min, .max = max}, steps, RandomStream(1));
}

/// k → the first step at which the schedule takes it.
std::map<int64_t, int64_t> changes(const KSchedule& of, int64_t steps = kSteps) {
  std::map<int64_t, int64_t> out;
  for (int64_t s = 0; s < steps; ++s) out.try_emplace(of.k(s), s);
  return out;
}

using Changes = std::map<int64_t, int64_t>;

TEST(KSchedule, LinearFrom8To16) {
  const KSchedule s = schedule("linear", 8, 16);
  EXPECT_EQ(changes(s), (Changes{{8, 0},
                                 {9, 25001},
                                 {10, 75000},
                                 {11, 125001},
                                 {12, 175000},
                                 {13, 225001},
                                 {14, 275000},
                                 {15, 325001},
                                 {16, 375000}}));
  EXPECT_NEAR(s.mean(), 11.99999, 5e-6);
}

TEST(KSchedule, CosineFrom8To16) {
  const KSchedule s = schedule("cosine", 8, 16);
  EXPECT_EQ(changes(s), (Changes{{8, 0},
                                 {9, 90508},
                                 {10, 158485},
                                 {11, 206967},
                                 {12, 247872},
                                 {13, 284692},
                                 {14, 319067},
                                 {15, 351970},
                                 {16, 384075}}));
  EXPECT_NEAR(s.mean(), 10.89091, 5e-6);
}

TEST(KSchedule, ExponentialFrom8To16) {
  const KSchedule s = schedule("exponential", 8, 16);
  EXPECT_EQ(changes(s), (Changes{{8, 0},
                                 {9, 9331},
                                 {10, 27993},
                                 {11, 50654},
                                 {12, 77314},
                                 {13, 110639},
                                 {14, 154628},
                                 {15, 222611},
                                 {16, 367908}}));
  EXPECT_NEAR(s.mean(), 13.44731, 5e-6);
}

TEST(KSchedule, MeansFrom2To16) {
  EXPECT_NEAR(schedule("linear", 2, 16).mean(), 8.99998, 5e-6);
  EXPECT_NEAR(schedule("cosine", 2, 16).mean(), 7.07453, 5e-6);
  EXPECT_NEAR(schedule("exponential", 2, 16).mean(), 11.55753, 5e-6);
}

TEST(KSchedule, AWideExponentialEndsBelowItsMaximum) {
  for (const int64_t min : {1, 2}) {
    const KSchedule s = schedule("exponential", min, 16);
    EXPECT_EQ(s.k(kSteps - 1), 15);
    EXPECT_EQ(changes(s).rbegin()->first, 15);
  }
  EXPECT_EQ(schedule("exponential", 8, 16).k(kSteps - 1), 16);
}

TEST(KSchedule, DecreasesMirrorIncreases) {
  for (const auto& [up, down] : {std::pair("linear", "linear_decrease"), std::pair("cosine", "cosine_decrease")}) {
    const KSchedule rising = schedule(up, 3, 16), falling = schedule(down, 3, 16);
    for (int64_t s = 0; s < kSteps; s += 7) ASSERT_EQ(rising.k(s) + falling.k(s), 19) << up << " at " << s;
    EXPECT_EQ(falling.k(0), 16);
    EXPECT_EQ(falling.k(kSteps - 1), 3);
  }
  EXPECT_NEAR(schedule("cosine_decrease", 8, 16).mean(), 8 + 8 * 2 / M_PI, 0.02);
}

TEST(KSchedule, MultiStep) {
  const KSchedule s = schedule("multi_step", 1, 16), down = schedule("multi_step_decrease", 1, 16);
  EXPECT_EQ(changes(s), (Changes{{1, 0}, {2, 80000}, {4, 160000}, {8, 240000}, {16, 320000}}));
  EXPECT_EQ(changes(down), (Changes{{16, 0}, {8, 80000}, {4, 160000}, {2, 240000}, {1, 320000}}));
  EXPECT_DOUBLE_EQ(s.mean(), 6.2);
  EXPECT_DOUBLE_EQ(down.mean(), 6.2);
  EXPECT_DOUBLE_EQ(schedule("multi_step", 8, 16).mean(), 9.6);  // clipped to [8, 16]
  EXPECT_EQ(changes(schedule("multi_step", 3, 6)), (Changes{{3, 0}, {4, 160000}, {6, 240000}}));
}

TEST(KSchedule, Constant) {
  EXPECT_EQ(changes(schedule("constant", 2, 5, 10), 10), (Changes{{5, 0}}));
  EXPECT_DOUBLE_EQ(schedule("constant", 2, 5, 10).mean(), 5);
}

TEST(KSchedule, RandomTakesEveryKAsOften) {
  const KSchedule s = schedule("random", 3, 7, 50000);
  std::map<int64_t, int64_t> count;
  for (int64_t step = 0; step < 50000; ++step) ++count[s.k(step)];
  ASSERT_EQ(count.size(), 5u);
  EXPECT_EQ(count.begin()->first, 3);
  for (const auto& [k, n] : count) EXPECT_NEAR(n, 10000, 400) << k;  // four and a half deviations
  EXPECT_NEAR(s.mean(), 5, 0.03);
}

TEST(KSchedule, RandomIsDecidedByStreamAndStepAlone) {
  const KScheduleConfig config{.kind = "random", .min = 1, .max = 16};
  const KSchedule long_run(config, 1000, RandomStream(1)), short_run(config, 100, RandomStream(1));
  const KSchedule other(config, 1000, RandomStream(2));
  int same = 0;
  for (int64_t step = 99; step >= 0; --step) {
    EXPECT_EQ(short_run.k(step), long_run.k(step));
    same += other.k(step) == long_run.k(step);
  }
  EXPECT_LT(same, 30);
}

TEST(KSchedule, EveryKindStaysInItsRangeForEveryLength) {
  for (const KScheduleKind& kind : k_schedule_kinds()) {
    EXPECT_FALSE(kind.summary.empty());
    for (const int64_t steps : {1, 2, 3, 4, 7, 150, 299, 300, 301, 1000}) {
      for (const auto& [min, max] : {std::pair<int64_t, int64_t>{1, 1}, {1, 16}, {4, 4}, {5, 7}}) {
        const KSchedule s = schedule(kind.name, min, max, steps);
        double sum = 0;
        for (int64_t step = 0; step < steps; ++step) {
          const int64_t k = s.k(step);
          ASSERT_TRUE(k >= min && k <= max) << kind.name << ", T " << steps << ", step " << step << ": " << k;
          sum += static_cast<double>(k);
        }
        EXPECT_DOUBLE_EQ(s.mean(), sum / static_cast<double>(steps));
        // Past its end, a schedule stays where it was.
        for (const int64_t past : {steps, steps + 1, 5 * steps, int64_t{1} << 40}) {
          EXPECT_EQ(s.k(past), s.k(steps - 1)) << kind.name << ", T " << steps;
        }
      }
    }
  }
}

TEST(KSchedule, AShortExponentialTakesAStairEachStep) {
  // T / 300 rounds to 0, by which the published code divides.
  const KSchedule s = schedule("exponential", 1, 101, 200);
  for (const int64_t step : {0, 1, 2, 50, 199}) {
    EXPECT_EQ(s.k(step), static_cast<int64_t>(std::nearbyint(-100 * std::pow(0.99, step))) + 101) << step;
  }
}

TEST(KSchedule, HalvesRoundToEven) {
  // (b − a)·s/T = s/2: 0, ½, 1, 1½, 2, 2½ round to 0, 0, 1, 2, 2, 2.
  const KSchedule s = schedule("linear", 1, 4, 6);
  const int64_t want[] = {1, 1, 2, 3, 3, 3};
  for (int64_t step = 0; step < 6; ++step) EXPECT_EQ(s.k(step), want[step]) << step;
}

TEST(KSchedule, RefusesWhatMakesNoSense) {
  EXPECT_NE(message_of([] { schedule("linear", 9, 8); }).find("k_schedule.min = 9 is larger than k_schedule.max = 8"),
            std::string::npos);
  EXPECT_NE(message_of([] { schedule("liner", 1, 8); }).find("did you mean 'linear'?"), std::string::npos);
  EXPECT_NE(message_of([] { schedule("linear", 1, 8, 0); }).find("at least one step"), std::string::npos);
  KScheduleConfig config;
  Fields fields;
  fields.table("k_schedule", config);
  EXPECT_THROW(set_field(fields, "k_schedule.min=0"), UserError);
  EXPECT_THROW(set_field(fields, "k_schedule.kind=\"cosinus\""), UserError);
  std::set<std::string> names;
  for (const KScheduleKind& kind : k_schedule_kinds()) {
    EXPECT_TRUE(names.insert(kind.name).second);
    EXPECT_NO_THROW(set_field(fields, "k_schedule.kind=" + kind.name));
  }
}

}  // namespace
}  // namespace smoe
