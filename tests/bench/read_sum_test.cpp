#include "bench/read_sum.h"

#include <gtest/gtest.h>

#include <vector>

namespace smoe::bench {
namespace {

TEST(ReadSum, ReadsEveryWord) {
  for (const int64_t bytes : {int64_t{0}, kReadStep, 3 * kReadStep, 64 * kReadStep}) {
    std::vector<uint64_t> words(static_cast<size_t>(bytes) / 8 + 8);  // some past the end, which are not to be read
    uint64_t expected = 0;
    for (size_t i = 0; i < words.size(); ++i) {
      words[i] = (i + 1) * 0x9E3779B97F4A7C15;
      if (i < static_cast<size_t>(bytes) / 8) expected += words[i];
    }
    EXPECT_EQ(read_sum(words.data(), bytes), expected) << bytes;
  }
}

}  // namespace
}  // namespace smoe::bench
