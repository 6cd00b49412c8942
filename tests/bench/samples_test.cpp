#include "bench/samples.h"

#include <gtest/gtest.h>

namespace smoe::bench {
namespace {

TEST(Samples, QuantilesLieBetweenNeighbours) {
  Samples samples;
  EXPECT_EQ(samples.median(), 0);
  samples.add(5);
  EXPECT_EQ(samples.quantile(0), 5);
  EXPECT_EQ(samples.median(), 5);
  EXPECT_EQ(samples.quantile(1), 5);
  for (const double value : {1.0, 4.0, 2.0}) samples.add(value);
  EXPECT_EQ(samples.size(), 4u);
  EXPECT_EQ(samples.quantile(0), 1);
  EXPECT_EQ(samples.quantile(0.25), 1.75);
  EXPECT_EQ(samples.median(), 3);
  EXPECT_EQ(samples.quantile(0.75), 4.25);
  EXPECT_EQ(samples.quantile(1), 5);
  EXPECT_EQ(samples.quantile(2), 5);
}

TEST(Samples, SecondsAreNotNegative) {
  int calls = 0;
  EXPECT_GE(seconds_of([&] { ++calls; }), 0);
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace smoe::bench
