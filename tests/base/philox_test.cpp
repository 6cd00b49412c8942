#include "smoe/base/philox.h"

#include <gtest/gtest.h>

#include <set>

namespace smoe {
namespace {

// kat_vectors of Random123 (Salmon et al.), philox4x32-10.
TEST(Philox, GivesTheKnownAnswers) {
  EXPECT_EQ(philox(0, 0, 0), (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, IsAConstantExpression) { static_assert(philox(0, 0, 0)[0] == 0x6627e8d5); }

TEST(Philox, DerivedKeysDiffer) {
  std::set<uint64_t> keys;
  for (uint64_t key = 0; key < 16; ++key) {
    for (uint64_t use = 0; use < 16; ++use) keys.insert(derive_key(key, use));
  }
  EXPECT_EQ(keys.size(), 256u);
}

TEST(Philox, ThresholdCoversTheWholeRange) {
  EXPECT_EQ(bernoulli_threshold(0.0), 0u);
  EXPECT_EQ(bernoulli_threshold(0.5), uint64_t{1} << 31);
  EXPECT_EQ(bernoulli_threshold(1.0), uint64_t{1} << 32);  // above every word
}

TEST(Philox, UniformStaysBelowOne) {
  EXPECT_EQ(uniform_double(0, 0), 0.0);
  EXPECT_EQ(uniform_double(0, 0x80000000u), 0.5);
  EXPECT_EQ(uniform_double(~0u, ~0u), 1.0 - 0x1.0p-53);
  EXPECT_EQ(uniform_double(1u << 11, 0), 0x1.0p-53);
}

}  // namespace
}  // namespace smoe
