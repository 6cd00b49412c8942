#include "smoe/study/trace_statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

#include "tests/study/small_trace.h"

namespace smoe {
namespace {

using testing::small_trace;
using testing::trace_layer;

Information of_tokens(std::vector<int32_t> tokens, int64_t experts, int64_t slots, std::vector<int32_t> expert) {
  const RoutingTrace trace = small_trace(std::move(tokens), {trace_layer(0, experts, slots, std::move(expert))});
  return token_information(trace, trace.layers[0]);
}

TEST(TokenInformation, IsWhatIsWorkedOutByHand) {
  const Information all = of_tokens({0, 0, 1, 1}, 2, 1, {0, 0, 1, 1});
  EXPECT_NEAR(all.bits, 1, 1e-12);
  EXPECT_NEAR(all.entropy, 1, 1e-12);
  EXPECT_NEAR(of_tokens({0, 1, 0, 1}, 2, 1, {0, 0, 1, 1}).bits, 0, 1e-12);
  // H(1/4) − ½ · 1
  const double quarter = -0.25 * std::log2(0.25) - 0.75 * std::log2(0.75);
  EXPECT_NEAR(of_tokens({0, 0, 1, 1}, 2, 1, {0, 0, 0, 1}).bits, quarter - 0.5, 1e-12);
}

TEST(TokenInformation, IsNothingWhereAllTakeAllOrNobodyAny) {
  EXPECT_NEAR(of_tokens({0, 1, 2}, 2, 2, {0, 1, 1, 0, 0, 1}).bits, 0, 1e-12);
  const Information none = of_tokens({0, 1}, 3, 1, {-1, -1});
  EXPECT_EQ(none.bits, 0);
  EXPECT_EQ(none.entropy, 0);
  EXPECT_EQ(of_tokens({3}, 3, 1, {2}).bits, 0);
  EXPECT_EQ(of_tokens({}, 3, 1, {}).bits, 0);
  EXPECT_EQ(of_tokens({0, 1}, 3, 0, {}).bits, 0);
}

/// Tokens of four ids with up to two experts of five, which follow the id where `follows`.
RoutingTrace drawn_trace(int64_t tokens, bool follows) {
  std::mt19937 draw(3);
  std::vector<int32_t> token, expert;
  for (int64_t i = 0; i < tokens; ++i) {
    const auto id = static_cast<int32_t>(draw() % 4), own = follows ? id : static_cast<int32_t>(draw() % 4);
    token.push_back(id);
    expert.push_back(own);
    expert.push_back(draw() % 3 == 0 ? -1 : 4);
  }
  return small_trace(token, {trace_layer(0, 5, 2, expert)});
}

TEST(TokenInformation, EqualsTheNaiveSum) {
  const RoutingTrace trace = drawn_trace(200, true);
  const TraceLayer& layer = trace.layers[0];
  std::map<std::pair<int, int>, double> both;
  std::map<int, double> tokens, experts;
  double sum = 0;
  for (size_t i = 0; i < layer.expert.size(); ++i) {
    if (layer.expert[i] < 0) continue;
    ++both[{trace.token[i / 2], layer.expert[i]}];
    ++tokens[trace.token[i / 2]];
    ++experts[layer.expert[i]];
    ++sum;
  }
  double bits = 0;
  for (const auto& [pair, count] : both) {
    bits += count / sum * std::log2(count * sum / (tokens[pair.first] * experts[pair.second]));
  }
  EXPECT_NEAR(token_information(trace, layer).bits, bits, 1e-12);
}

TEST(TokenInformation, ShufflingLeavesWhatTheSampleFeigns) {
  const RoutingTrace follows = drawn_trace(4000, true), free = drawn_trace(4000, false);
  const Information told = token_information(follows, follows.layers[0]),
                    not_told = token_information(free, free.layers[0]);
  EXPECT_GT(told.bits, 1);
  EXPECT_LT(told.shuffled, 0.01);
  EXPECT_LT(not_told.bits, 0.01);
  EXPECT_GT(not_told.shuffled, 0);
  EXPECT_EQ(token_information(follows, follows.layers[0]).shuffled, told.shuffled);
}

TEST(Agreement, IsTheShareOfCommonExperts) {
  const TraceLayer a = trace_layer(0, 4, 2, {0, 1, 2, 3}), b = trace_layer(0, 4, 2, {1, 0, 2, -1});
  const std::optional<Agreement> found = agreement(a, b);
  ASSERT_TRUE(found.has_value());
  EXPECT_NEAR(found->overlap, 3.0 / 4, 1e-12);
  EXPECT_NEAR(found->chance, (1.0 * 1 + 1 * 1 + 1 * 1 + 1 * 0) / 2 / 4, 1e-12);
  EXPECT_NEAR(agreement(a, a)->overlap, 1, 1e-12);
  // One slot against two: the larger number counts.
  EXPECT_NEAR(agreement(trace_layer(0, 4, 1, {0, 3}), a)->overlap, 0.5, 1e-12);
  const TraceLayer nobody = trace_layer(0, 4, 1, {-1, -1});
  EXPECT_FALSE(agreement(nobody, nobody).has_value());
  EXPECT_EQ(agreement(nobody, a)->overlap, 0);
  EXPECT_FALSE(agreement(trace_layer(0, 4, 0, {}), trace_layer(0, 4, 0, {})).has_value());
}

TEST(Agreement, ChanceIsWhatIndependentRoutersHave) {
  std::mt19937 draw(5);
  std::vector<int32_t> a, b;
  for (int64_t i = 0; i < 20000; ++i) {
    a.push_back(draw() % 2 == 0 ? 0 : static_cast<int32_t>(draw() % 3));
    b.push_back(static_cast<int32_t>(draw() % 3));
  }
  const std::optional<Agreement> found = agreement(trace_layer(0, 3, 1, a), trace_layer(0, 3, 1, b));
  EXPECT_NEAR(found->overlap, 1.0 / 3, 0.02);
  EXPECT_NEAR(found->chance, found->overlap, 0.02);
}

TEST(Agreement, NeedsTheSameTokensAndLayers) {
  const RoutingTrace trace = small_trace({0, 1}, {trace_layer(1, 3, 1, {0, 2})});
  EXPECT_EQ(why_incomparable(trace, trace), "");
  EXPECT_NE(why_incomparable(trace, small_trace({0}, {trace_layer(1, 3, 1, {0})})), "");
  EXPECT_NE(why_incomparable(trace, small_trace({0, 2}, {trace_layer(1, 3, 1, {0, 2})})), "");
  EXPECT_NE(why_incomparable(trace, small_trace({0, 1}, {trace_layer(1, 4, 1, {0, 2})})), "");
  EXPECT_NE(why_incomparable(trace, small_trace({0, 1}, {trace_layer(2, 3, 1, {0, 2})})), "");
}

/// A forward of two rows of two tokens and one of two rows of one, all to expert 0 of two.
RoutingTrace dropping_trace() {
  RoutingTrace trace = small_trace({0, 0, 1, 2, 3, 0}, {trace_layer(0, 2, 1, {0, 0, 0, 0, 0, 0})});
  trace.call = {0, 0, 0, 0, 1, 1};
  trace.sequence = {0, 0, 1, 1, 0, 1};
  trace.position = {0, 1, 0, 1, 0, 0};
  trace.layers[0].kept = {1, 1, 0, 0, 1, 0};
  return trace;
}

TEST(Drops, AreCountedByPlace) {
  const RoutingTrace trace = dropping_trace();
  const auto counts = [&](DropPlace place, int64_t buckets) {
    std::vector<std::vector<int64_t>> out;
    for (const DropBucket& bucket : drops_by_place(trace, trace.layers[0], place, buckets)) {
      out.push_back({bucket.first, bucket.last, bucket.assigned, bucket.dropped});
    }
    return out;
  };
  using Rows = std::vector<std::vector<int64_t>>;
  EXPECT_EQ(counts(DropPlace::kRow, 32), (Rows{{0, 0, 4, 2}, {1, 1, 2, 1}}));
  EXPECT_EQ(counts(DropPlace::kForward, 32), (Rows{{0, 0, 2, 0}, {1, 1, 2, 1}, {2, 2, 1, 1}, {3, 3, 1, 1}}));
  EXPECT_EQ(counts(DropPlace::kForward, 2), (Rows{{0, 1, 4, 1}, {2, 3, 2, 2}}));
  EXPECT_EQ(counts(DropPlace::kForward, 3), (Rows{{0, 1, 4, 1}, {2, 3, 2, 2}}));
  EXPECT_EQ(counts(DropPlace::kForward, 1), (Rows{{0, 3, 6, 3}}));
  EXPECT_TRUE(drops_by_place(small_trace({}, {}), trace_layer(0, 2, 1, {}), DropPlace::kRow, 4).empty());
}

TEST(TokenClasses, AreOfBytes) {
  const auto name = [](uint8_t byte) { return std::string(kTokenClassNames[token_class(byte)]); };
  for (const char c : {'a', 'z', 'A', 'Z'}) EXPECT_EQ(name(static_cast<uint8_t>(c)), "letters");
  for (const char c : {'0', '9'}) EXPECT_EQ(name(static_cast<uint8_t>(c)), "digits");
  for (const char c : {' ', '\n', '\t', '\r', '\v'}) EXPECT_EQ(name(static_cast<uint8_t>(c)), "blanks");
  for (const char c : {'!', '/', ':', '@', '[', '`', '{', '~'}) EXPECT_EQ(name(static_cast<uint8_t>(c)), "punctuation");
  for (const int c : {0, 8, 14, 31, 127}) EXPECT_EQ(name(static_cast<uint8_t>(c)), "controls");
  for (const int c : {128, 255}) EXPECT_EQ(name(static_cast<uint8_t>(c)), "not ASCII");
}

TEST(TokenClasses, HaveTheirExperts) {
  RoutingTrace trace = small_trace({0, 0, 1, 3}, {trace_layer(0, 3, 2, {0, 2, 1, -1, 2, 0, -1, -1})});
  trace.layers[0].network = {1, 1, 0};
  trace.layers[0].kept[0] = 0;  // dropped
  const auto uses = use_by_class(trace, trace.layers[0]);
  EXPECT_EQ(uses[0].tokens, 2);
  EXPECT_EQ(uses[0].computed, 2);
  EXPECT_EQ(uses[0].networks, 1);
  EXPECT_EQ(uses[1].tokens, 1);
  EXPECT_EQ(uses[1].computed, 2);
  EXPECT_EQ(uses[1].networks, 1);
  EXPECT_EQ(uses[2].tokens, 0);
  EXPECT_EQ(uses[5].tokens, 1);
  EXPECT_EQ(uses[5].computed, 0);
}

TEST(Redundancy, IsOfTheCosines) {
  TraceLayer layer = trace_layer(0, 4, 1, {0});
  EXPECT_FALSE(redundancy(layer).has_value());
  layer.network = {1, 0, 1, 1};
  layer.similarity = {1, 0.5F, -0.5F, 0.5F, 1, 0, -0.5F, 0, 1};
  const std::optional<Redundancy> found = redundancy(layer);
  ASSERT_TRUE(found.has_value());
  EXPECT_NEAR(found->mean, 0, 1e-12);
  EXPECT_NEAR(found->largest, 0.5, 1e-12);
  EXPECT_EQ(found->first, 0);
  EXPECT_EQ(found->second, 2);
  EXPECT_NEAR(found->distinct, 9.0 / 4, 1e-12);
  layer.similarity.assign(9, 1);
  EXPECT_NEAR(redundancy(layer)->distinct, 1, 1e-12);
  layer.network = {0, 1, 0, 0};
  layer.similarity = {1};
  EXPECT_EQ(redundancy(layer)->first, 1);
  EXPECT_NEAR(redundancy(layer)->distinct, 1, 1e-12);
}

TEST(Affinity, IsWhoFollowsWhom) {
  const Affinity found = next_layer_affinity(trace_layer(0, 3, 1, {0, 0, 1, 1}), trace_layer(1, 2, 1, {0, 1, 1, 1}), 4);
  EXPECT_EQ(found.follows, (std::vector<double>{0.5, 0.5, 0, 1, 0, 0}));
  const double quarter = -0.25 * std::log2(0.25) - 0.75 * std::log2(0.75);
  EXPECT_NEAR(found.information.bits, quarter - 0.5, 1e-12);
  EXPECT_NEAR(found.information.entropy, quarter, 1e-12);
  // Every pair of a token's experts counts.
  const Affinity two = next_layer_affinity(trace_layer(0, 2, 2, {0, 1, 1, -1}), trace_layer(1, 2, 2, {0, 1, 1, -1}), 2);
  EXPECT_EQ(two.follows, (std::vector<double>{0.5, 0.5, 1.0 / 3, 2.0 / 3}));
}

TEST(Load, IsAShareOfTheAssignments) {
  EXPECT_EQ(load_of(trace_layer(0, 3, 2, {0, 1, 0, -1})), (std::vector<double>{2.0 / 3, 1.0 / 3, 0}));
  EXPECT_EQ(load_of(trace_layer(0, 2, 1, {-1})), (std::vector<double>{0, 0}));
}

}  // namespace
}  // namespace smoe
