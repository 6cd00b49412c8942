#include "smoe/moe/stats_book.h"

#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "smoe/tensor/random_stream.h"
#include "tests/base/temp_folder.h"
#include "tests/moe/fake_group.h"

namespace smoe {
namespace {

using testing::FakeGroup;

constexpr int64_t kExperts = 4;

/// A routing of T tokens with k = 2 out of 4 from random logits.
Routing routing_of(int64_t tokens, uint64_t seed) {
  Routing routing;
  at::Tensor logits = torch::empty({tokens, kExperts});
  RandomStream(seed).fill_normal(logits, 0, 1);
  const auto [score, expert] = logits.topk(2, -1);
  routing.expert = expert.to(torch::kInt32);
  routing.weight = torch::softmax(score, -1);
  routing.logits.value = logits;
  routing.probabilities.value = torch::softmax(logits, -1);
  return routing;
}

Routing rows(const Routing& routing, int64_t first, int64_t count) {
  Routing out = routing;
  for (at::Tensor* t : {&out.expert, &out.weight, &out.logits.value, &out.probabilities.value}) {
    *t = t->narrow(0, first, count);
  }
  return out;
}

at::Tensor none() { return torch::zeros({kExperts}, torch::kInt64); }

void expect_equal(const LayerStats& a, const LayerStats& b) {
  EXPECT_TRUE(torch::equal(a.count, b.count)) << a.count << b.count;
  EXPECT_TRUE(torch::allclose(a.probability, b.probability, 1e-9, 1e-9));
  EXPECT_TRUE(torch::equal(a.dropped, b.dropped));
  EXPECT_NEAR(a.entropy, b.entropy, 1e-5);
  EXPECT_NEAR(a.logsumexp_sq, b.logsumexp_sq, 1e-4);
  EXPECT_EQ(a.tokens, b.tokens);
}

LayerStats of_one_record(const Routing& routing, const at::Tensor& dropped = none(), const at::Tensor& valid = {}) {
  StatsBook book;
  book.record(0, routing, kExperts, dropped, valid);
  return book.layers().at(0);
}

TEST(StatsBook, AddsUpWhatALayerDid) {
  const Routing routing = routing_of(50, 1);
  const LayerStats stats = of_one_record(routing, torch::tensor({3, 0, 1, 0}, torch::kInt64));
  for (int64_t e = 0; e < kExperts; ++e) {
    EXPECT_EQ(stats.count[e].item<double>(), routing.expert.eq(e).sum().item<double>());
  }
  EXPECT_EQ(stats.count.scalar_type(), torch::kFloat64);
  EXPECT_EQ(stats.tokens, 50);
  EXPECT_NEAR(stats.load().sum().item<double>(), 1, 1e-12);
  EXPECT_TRUE(torch::allclose(stats.load() * 100, stats.count, 0, 1e-9));
  const at::Tensor p = routing.probabilities.value.to(torch::kFloat64);
  EXPECT_TRUE(torch::allclose(stats.probability, p.sum(0), 1e-6, 1e-6));
  EXPECT_NEAR(stats.entropy, -(p * p.log()).sum().item<double>(), 1e-4);
  const at::Tensor z = routing.logits.value.to(torch::kFloat64).logsumexp(-1);
  EXPECT_NEAR(stats.logsumexp_sq, z.square().sum().item<double>(), 1e-3);
  EXPECT_DOUBLE_EQ(stats.mean_active_experts(), (100.0 - 4) / 50);
  EXPECT_DOUBLE_EQ(stats.dropped_fraction(), 0.04);
}

TEST(StatsBook, EntropyLiesBetweenZeroAndLogE) {
  Routing even = routing_of(8, 2), sure = routing_of(8, 2);
  even.probabilities.value = torch::full({8, kExperts}, 0.25);
  sure.probabilities.value = torch::zeros({8, kExperts});
  sure.probabilities.value.select(1, 2).fill_(1);
  EXPECT_NEAR(of_one_record(even).mean_entropy(), std::log(4.0), 1e-6);
  EXPECT_NEAR(of_one_record(sure).mean_entropy(), 0, 1e-12);
  const double between = of_one_record(routing_of(8, 2)).mean_entropy();
  EXPECT_TRUE(between > 0 && between < std::log(4.0)) << between;
}

TEST(StatsBook, EmptySlotsAndNoTokensAreNoAssignments) {
  Routing routing = routing_of(6, 3);
  routing.expert = torch::tensor({{-1, 0}, {-1, -1}, {3, -1}, {0, 3}, {-1, -1}, {0, -1}}, torch::kInt32);
  const LayerStats stats = of_one_record(routing);
  EXPECT_TRUE(torch::equal(stats.count, torch::tensor({3.0, 0.0, 0.0, 2.0}, torch::kFloat64)));
  EXPECT_DOUBLE_EQ(stats.mean_active_experts(), 5.0 / 6);
  const LayerStats nothing = of_one_record(routing_of(0, 3));
  EXPECT_EQ(nothing.tokens, 0);
  EXPECT_TRUE(torch::equal(nothing.load(), torch::zeros({kExperts}, torch::kFloat64)));
  EXPECT_EQ(nothing.mean_entropy(), 0);
  EXPECT_EQ(nothing.mean_active_experts(), 0);
  EXPECT_EQ(nothing.dropped_fraction(), 0);
}

TEST(StatsBook, MicroBatchesAddUpToTheWholeBatch) {
  const Routing whole = routing_of(30, 4);
  StatsBook book;
  const std::pair<int64_t, int64_t> parts[] = {{0, 7}, {7, 13}, {20, 10}};
  for (int64_t i = 0; i < 3; ++i) {
    book.begin_micro_batch(i);
    book.record(0, rows(whole, parts[i].first, parts[i].second), kExperts, none(), {});
  }
  ASSERT_EQ(book.layers().size(), 1u);
  expect_equal(book.layers()[0], of_one_record(whole));
}

TEST(StatsBook, AMicroBatchComputedTwiceCountsOnce) {
  const Routing one = routing_of(10, 5), two = routing_of(12, 6);
  StatsBook book;
  book.begin_micro_batch(0);
  book.record(0, two, kExperts, none(), {});  // will be recomputed, with another answer
  book.begin_micro_batch(1);
  book.record(0, two, kExperts, none(), {});
  book.begin_micro_batch(0);
  book.record(0, one, kExperts, none(), {});
  StatsBook want;
  want.record(0, one, kExperts, none(), {});
  want.begin_micro_batch(1);
  want.record(0, two, kExperts, none(), {});
  expect_equal(book.layers()[0], want.layers()[0]);
  book.clear();
  EXPECT_TRUE(book.layers().empty());
}

TEST(StatsBook, LayersComeInAscendingOrder) {
  StatsBook book;
  for (const int64_t layer : {7, 0, 3}) book.record(layer, routing_of(5 + layer, 7), kExperts, none(), {});
  const std::vector<LayerStats> layers = book.layers();
  ASSERT_EQ(layers.size(), 3u);
  EXPECT_EQ(layers[0].tokens, 5);
  EXPECT_EQ(layers[1].tokens, 8);
  EXPECT_EQ(layers[2].tokens, 12);
}

TEST(StatsBook, PaddingCountsInNoSum) {
  const Routing routing = routing_of(20, 8);
  Routing padded = routing;
  const at::Tensor valid = torch::arange(20).lt(13);
  // Whatever the padded tokens hold, NaN too.
  const at::Tensor nan = torch::full({20, kExperts}, std::numeric_limits<float>::quiet_NaN());
  padded.probabilities.value = torch::where(valid.unsqueeze(1), routing.probabilities.value, nan);
  padded.logits.value = torch::where(valid.unsqueeze(1), routing.logits.value, nan);
  expect_equal(of_one_record(padded, none(), valid), of_one_record(rows(routing, 0, 13)));
}

TEST(StatsBook, KindsWithoutLogitsOrProbabilitiesHaveZeros) {
  Routing routing = routing_of(9, 9);
  routing.logits.value = routing.probabilities.value = at::Tensor();
  const LayerStats stats = of_one_record(routing);
  EXPECT_TRUE(torch::equal(stats.probability, torch::zeros({kExperts}, torch::kFloat64)));
  EXPECT_EQ(stats.entropy, 0);
  EXPECT_EQ(stats.logsumexp_sq, 0);
  EXPECT_EQ(stats.count.sum().item<double>(), 18);
}

TEST(StatsBook, CountsOnly) {
  const Routing routing = routing_of(9, 10);
  StatsBook book(StatsBook::Detail::kCounts);
  book.record(0, routing, kExperts, torch::tensor({0, 2, 0, 0}, torch::kInt64), {});
  const LayerStats stats = book.layers()[0], all = of_one_record(routing);
  EXPECT_TRUE(torch::equal(stats.count, all.count));
  EXPECT_EQ(stats.tokens, 9);
  EXPECT_EQ(stats.dropped.sum().item<double>(), 2);
  EXPECT_EQ(stats.entropy + stats.logsumexp_sq + stats.probability.sum().item<double>(), 0);
}

TEST(StatsBook, RecordsNoGraph) {
  Routing routing = routing_of(9, 11);
  routing.logits.value = routing.logits.value.detach().requires_grad_();
  routing.probabilities.value = torch::softmax(routing.logits.value, -1);
  const LayerStats stats = of_one_record(routing);
  EXPECT_FALSE(stats.probability.requires_grad());
}

TEST(StatsBook, RanksAddUpToTheWholeBatchOnEveryRank) {
  const Routing first = routing_of(30, 12), second = routing_of(30, 13);
  const std::pair<int64_t, int64_t> shares[] = {{0, 9}, {9, 1}, {10, 20}};
  StatsBook books[3];
  for (int64_t rank = 0; rank < 3; ++rank) {
    const auto& [from, count] = shares[rank];
    books[rank].record(0, rows(first, from, count), kExperts, torch::full({kExperts}, rank, torch::kInt64), {});
    books[rank].record(1, rows(second, from, count), kExperts, none(), {});
  }
  FakeGroup group(3);
  for (int64_t rank = 0; rank < 3; ++rank) {
    group.become(rank, /*sums=*/false);
    books[rank].layers(group);
  }
  for (int64_t rank = 0; rank < 3; ++rank) {
    group.become(rank, /*sums=*/true);
    const std::vector<LayerStats> sums = books[rank].layers(group);
    ASSERT_EQ(sums.size(), 2u);
    expect_equal(sums[0], of_one_record(first, torch::full({kExperts}, 3, torch::kInt64)));
    expect_equal(sums[1], of_one_record(second));
    EXPECT_EQ(books[rank].layers()[0].tokens, shares[rank].second);  // the book itself keeps its own sums
  }
  const ProcessGroup alone;
  expect_equal(books[0].layers(alone)[0], books[0].layers()[0]);
}

TEST(StatsBook, PooledCountsGrowWithTheMicroBatchesOfAllRanks) {
  const Routing whole = routing_of(30, 14);
  StatsBook books[2];
  FakeGroup group(2);
  // Rank 0 has tokens 0 to 6 and then 7 to 9, rank 1 has 10 to 13 and then 14 to 29.
  const std::pair<int64_t, int64_t> parts[2][2] = {{{0, 7}, {7, 3}}, {{10, 4}, {14, 16}}};
  std::vector<PooledCount> seen[2];
  for (const bool sums : {false, true}) {
    for (int64_t rank = 0; rank < 2; ++rank) {
      StatsBook& book = books[rank];
      book.clear();
      group.become(rank, sums);
      book.share_among(group);
      for (int64_t i = 0; i < 2; ++i) {
        book.begin_micro_batch(i);
        const auto& [first, count] = parts[rank][i];
        for (int again = 0; again < 2; ++again) book.record(5, rows(whole, first, count), kExperts, none(), {});
        const PooledCount pooled = book.pooled(5);
        if (sums) seen[rank].push_back(pooled);
      }
    }
  }
  for (int64_t rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(seen[rank][0].tokens, 11);
    EXPECT_EQ(seen[rank][0].micro_batches, 2);
    const LayerStats first = of_one_record(rows(whole, 0, 7)), other = of_one_record(rows(whole, 10, 4));
    EXPECT_TRUE(torch::equal(seen[rank][0].count, first.count + other.count));
    EXPECT_EQ(seen[rank][1].tokens, 30);
    EXPECT_EQ(seen[rank][1].micro_batches, 4);
    EXPECT_TRUE(torch::equal(seen[rank][1].count, of_one_record(whole).count));
  }
  const StatsBook nothing;
  EXPECT_NE(message_of([&] { nothing.pooled(5); }).find("layer 5 has recorded nothing"), std::string::npos);
}

TEST(StatsBook, OnAGpuAddsUpTheSame) {
  if (!at::hasCUDA()) GTEST_SKIP() << "LibTorch sees no GPU";
  StatsBook here(StatsBook::Detail::kTerms), there(StatsBook::Detail::kTerms);
  for (int64_t i = 0; i < 3; ++i) {
    for (StatsBook* book : {&here, &there}) {
      book->begin_micro_batch(i);
      for (int64_t layer = 0; layer < 2; ++layer) {
        Routing routing = routing_of(40, static_cast<uint64_t>(3 * layer + i));
        if (book == &there) {
          for (at::Tensor* t :
               {&routing.expert, &routing.weight, &routing.logits.value, &routing.probabilities.value}) {
            *t = t->to(at::kCUDA);
          }
        }
        at::Tensor valid = torch::arange(40, routing.expert.options()).lt(30 + i);
        book->record(layer, routing, kExperts, none(), layer == 1 ? valid : at::Tensor());
      }
    }
  }
  for (size_t layer = 0; layer < 2; ++layer) expect_equal(there.layers().at(layer), here.layers().at(layer));
  EXPECT_TRUE(torch::equal(there.pooled(1).count, here.pooled(1).count));
  EXPECT_TRUE(there.terms().at(0).count.is_cuda());
}

}  // namespace
}  // namespace smoe
