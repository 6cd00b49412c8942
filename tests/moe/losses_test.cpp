#include "smoe/moe/losses.h"

#include "smoe/moe/select.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"
#include "tests/moe/fake_group.h"
#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::golden_router;
using testing::golden_tokens;
using testing::router_config;
using testing::router_input;

at::Tensor none(int64_t experts) { return torch::zeros({experts}, torch::kInt64); }

/// A routing of given probabilities and the one expert each token takes.
Routing routing_of(const at::Tensor& probabilities, const std::vector<int>& experts) {
  Routing routing;
  routing.expert = torch::tensor(experts, torch::kInt32).view({-1, 1});
  routing.weight = torch::ones({routing.expert.size(0), 1}, probabilities.options());
  routing.probabilities.value = probabilities;
  routing.logits.value = probabilities.log();
  return routing;
}

StatsBook book_of(const std::vector<Routing>& layers, const at::Tensor& valid = {}) {
  StatsBook book(StatsBook::Detail::kTerms);
  int64_t layer = 0;
  for (const Routing& routing : layers) {
    const int64_t experts = routing.probabilities.value.size(1);
    book.record(layer++, routing, experts, none(experts), valid);
  }
  return book;
}

at::Tensor even(int64_t tokens, int64_t experts) {
  return torch::full({tokens, experts}, 1.0 / static_cast<double>(experts), torch::kFloat64);
}

TEST(Losses, AreTheFormulas) {
  const auto router = golden_router(router_config("learned", 6));
  const StatsBook book = book_of({router->route(router_input(golden_tokens(), {.k = 2}))});
  EXPECT_NEAR(balance_loss(book).item<double>(), golden::kBalance2[0], 1e-12);
  EXPECT_NEAR(z_loss(book).item<double>(), golden::kZ[0], 1e-12);
  EXPECT_NEAR(entropy_loss(book).item<double>(), golden::kEntropy[0], 1e-12);
}

TEST(Losses, BalanceIsOneWhereLoadIsEvenAndEWhereOneTakesAll) {
  EXPECT_NEAR(balance_loss(book_of({routing_of(even(4, 4), {0, 1, 2, 3})})).item<double>(), 1, 1e-12);
  const at::Tensor sure = torch::zeros({3, 4}, torch::kFloat64).index_fill(1, torch::tensor({2}), 1.0);
  EXPECT_NEAR(balance_loss(book_of({routing_of(sure, {2, 2, 2})})).item<double>(), 4, 1e-12);
  // The convention does not depend on k: two experts a token, all alike.
  Routing two = routing_of(even(2, 4), {0, 1});
  two.expert = torch::tensor({{0, 1}, {2, 3}}, torch::kInt32);
  two.weight = torch::full({2, 2}, 0.5, torch::kFloat64);
  EXPECT_NEAR(balance_loss(book_of({two})).item<double>(), 1, 1e-12);
}

TEST(Losses, DevicesAreBalancedAsGroups) {
  const auto router = golden_router(router_config("learned", 6));
  const StatsBook book = book_of({router->route(router_input(golden_tokens(), {.k = 2}))});
  EXPECT_NEAR(device_balance_loss(book, 3).item<double>(), golden::kDeviceBalance3[0], 1e-12);
  EXPECT_NEAR(device_balance_loss(book, 1).item<double>(), 1, 1e-12);
  EXPECT_NEAR(device_balance_loss(book, 6).item<double>(), balance_loss(book).item<double>(), 1e-12);
  EXPECT_NE(message_of([&] { device_balance_loss(book, 4); }).find("losses.devices = 4 does not divide the 6"),
            std::string::npos);
  // Within a group experts may share as they like.
  EXPECT_NEAR(device_balance_loss(book_of({routing_of(even(4, 4), {0, 0, 2, 2})}), 2).item<double>(), 1, 1e-12);
  const at::Tensor sure = torch::zeros({3, 4}, torch::kFloat64).index_fill(1, torch::tensor({2}), 1.0);
  EXPECT_NEAR(device_balance_loss(book_of({routing_of(sure, {2, 2, 2})}), 2).item<double>(), 2, 1e-12);
}

TEST(Losses, LayersAreNotPooled) {
  // Each layer sends everything to one expert, another each: pooled, they would look balanced.
  std::vector<Routing> layers;
  for (int64_t e = 0; e < 4; ++e) {
    const at::Tensor sure = torch::zeros({3, 4}, torch::kFloat64).index_fill(1, torch::tensor({e}), 1.0);
    const int id = static_cast<int>(e);
    layers.push_back(routing_of(sure, {id, id, id}));
  }
  EXPECT_NEAR(balance_loss(book_of(layers)).item<double>(), 4 * 4, 1e-12);
}

TEST(Losses, TheGradientIsThatOfTheProbabilitiesAlone) {
  const auto router = golden_router(router_config("learned", 6));
  const at::Tensor x = golden_tokens();
  for (const LossKind& kind : loss_kinds()) {
    testing::gradcheck([&] { return kind.loss(book_of({router->route(router_input(x, {.k = 2}))}), {.devices = 3}); },
                       {{"x", x}, {"weight", router->named_parameters()["weight"]}});
    if (HasFatalFailure()) return;
  }
}

TEST(Losses, PooledCountsMakeTheBalanceOfPartsThatOfTheWhole) {
  // P enters linearly: with the whole batch's f, the parts' losses have the whole's mean.
  const auto router = golden_router(router_config("learned", 6));
  const Routing whole = router->route(router_input(golden_tokens(), {.k = 2}));
  const LayerTerms all = book_of({whole}).terms().at(0);
  at::Tensor sum = torch::zeros({}, torch::kFloat64);
  for (int64_t t = 0; t < golden::kTokens; ++t) {
    Routing part = whole;
    for (at::Tensor* rows : {&part.expert, &part.weight, &part.logits.value, &part.probabilities.value}) {
      *rows = rows->narrow(0, t, 1);
    }
    const LayerTerms terms = book_of({part}).terms().at(0);
    sum = sum + (all.count / all.count.sum() * terms.probability).sum() * 6;
  }
  EXPECT_NEAR(sum.item<double>() / golden::kTokens, golden::kBalance2[0], 1e-12);
}

/// Tokens first to first + count of the golden router's answer, with the gradient to its weight.
Routing part_of(Router& router, int64_t first, int64_t count) {
  return router.route(router_input(golden_tokens().narrow(0, first, count), {.k = 2}));
}

at::Tensor gradient_of(const at::Tensor& loss, Router& router) {
  return torch::autograd::grad({loss}, {router.named_parameters()["weight"]})[0];
}

TEST(Losses, GlobalBalanceOfRanksIsTheBalanceOfThePooledBatch) {
  const auto router = golden_router(router_config("learned", 6));
  const at::Tensor whole = balance_loss(book_of({part_of(*router, 0, golden::kTokens)}));
  const at::Tensor gradient = gradient_of(whole, *router);
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{golden::kTokens}, {1, golden::kTokens - 1}, {2, 0, golden::kTokens - 3, 1}}) {
    testing::FakeGroup group(std::ssize(sizes));
    at::Tensor mean;
    for (const bool sums : {false, true}) {
      mean = torch::zeros({}, torch::kFloat64);
      int64_t first = 0;
      for (size_t rank = 0; rank < sizes.size(); ++rank) {
        group.become(static_cast<int64_t>(rank), sums);
        StatsBook book(StatsBook::Detail::kTerms);
        book.share_among(group);
        // Twice, as recomputed activations do.
        for (int again = 0; again < 2; ++again) book.record(0, part_of(*router, first, sizes[rank]), 6, none(6), {});
        mean = mean + global_balance_loss(book) / static_cast<double>(sizes.size());
        first += sizes[rank];
      }
    }
    EXPECT_NEAR(mean.item<double>(), golden::kBalance2[0], 1e-12) << sizes.size();
    EXPECT_TRUE(torch::allclose(gradient_of(mean, *router), gradient, 1e-10, 1e-12)) << sizes.size();
  }
}

TEST(Losses, GlobalBalanceOfMicroBatchesCountsUntilNow) {
  const auto router = golden_router(router_config("learned", 6));
  const int64_t half = golden::kTokens / 2;
  StatsBook book(StatsBook::Detail::kTerms);
  book.begin_micro_batch(0);
  book.record(0, part_of(*router, 0, half), 6, none(6), {});
  // Of the first micro-batch alone it is the balance loss, and so it is of each where there is one.
  EXPECT_NEAR(global_balance_loss(book).item<double>(), balance_loss(book).item<double>(), 1e-12);
  book.begin_micro_batch(1);
  book.record(0, part_of(*router, half, golden::kTokens - half), 6, none(6), {});
  // The last one's f is that of the whole step.
  const LayerTerms all = book_of({part_of(*router, 0, golden::kTokens)}).terms().at(0), &last = book.terms().at(0);
  const auto rest = static_cast<double>(golden::kTokens - half), mean = golden::kTokens / 2.0;
  const at::Tensor want = 6 * (all.count / all.count.sum() * last.probability / rest).sum() * (rest / mean);
  EXPECT_NEAR(global_balance_loss(book).item<double>(), want.item<double>(), 1e-12);
  book.clear();  // a step begins
  book.begin_micro_batch(0);
  book.record(0, part_of(*router, half, 1), 6, none(6), {});
  EXPECT_NEAR(global_balance_loss(book).item<double>(), balance_loss(book).item<double>(), 1e-12);
}

TEST(Losses, GlobalBalanceLetsAMicroBatchSpecialise) {
  // Two micro-batches, each of one domain that has one expert: unbalanced by itself, balanced together.
  const auto sure = [](int64_t expert) {
    return torch::zeros({3, 2}, torch::kFloat64).index_fill(1, torch::tensor({expert}), 1.0);
  };
  StatsBook book(StatsBook::Detail::kTerms);
  book.begin_micro_batch(0);
  book.record(0, routing_of(sure(0), {0, 0, 0}), 2, none(2), {});
  EXPECT_NEAR(global_balance_loss(book).item<double>(), 2, 1e-12);
  book.begin_micro_batch(1);
  book.record(0, routing_of(sure(1), {1, 1, 1}), 2, none(2), {});
  EXPECT_NEAR(global_balance_loss(book).item<double>(), 1, 1e-12);
  EXPECT_NEAR(balance_loss(book).item<double>(), 2, 1e-12);
  // Padding counts neither in f nor in P nor in a micro-batch's weight.
  StatsBook padded(StatsBook::Detail::kTerms);
  padded.record(0, routing_of(sure(0), {0, 0, 1}), 2, none(2), torch::tensor({true, true, false}));
  EXPECT_NEAR(global_balance_loss(padded).item<double>(), 2, 1e-12);
  StatsBook empty(StatsBook::Detail::kTerms);
  empty.record(0, routing_of(sure(0), {0, 0, 1}), 2, none(2), torch::zeros({3}, torch::kBool));
  EXPECT_EQ(global_balance_loss(empty).item<double>(), 0);
}

TEST(Losses, AMicroBatchComputedTwiceCountsOnce) {
  const Routing first = routing_of(even(4, 4), {0, 0, 0, 0}), second = routing_of(even(4, 4), {0, 1, 2, 3});
  StatsBook book(StatsBook::Detail::kTerms);
  book.begin_micro_batch(0);
  book.record(0, first, 4, none(4), {});
  book.record(0, second, 4, none(4), {});
  EXPECT_EQ(book.terms().size(), 1u);
  EXPECT_EQ(book.terms().at(0).tokens, 4);
  book.begin_micro_batch(1);
  EXPECT_TRUE(book.terms().empty());
}

TEST(Losses, WeightsChooseAndTermsAddUp) {
  Routing routing = routing_of(even(4, 4), {0, 1, 2, 3});
  routing.terms["own"] = {torch::tensor(3.0, torch::kFloat64), 0.5};
  const StatsBook book = book_of({routing, routing});
  const std::vector<NamedLoss> losses = auxiliary_losses(book, {.balance = 0.25, .z = 0, .entropy = 2});
  ASSERT_EQ(losses.size(), 3u);
  EXPECT_EQ(losses[0].name, "balance");
  EXPECT_EQ(losses[0].weight, 0.25);
  EXPECT_NEAR(losses[0].value.item<double>(), 2, 1e-12);
  EXPECT_EQ(losses[1].name, "entropy");
  EXPECT_NEAR(losses[1].value.item<double>(), 2 * std::log(4.0), 1e-12);
  EXPECT_EQ(losses[2].name, "own");
  EXPECT_EQ(losses[2].weight, 0.5);
  EXPECT_EQ(losses[2].value.item<double>(), 6);
}

TEST(Losses, WhatIsMissingIsNamed) {
  Routing without = routing_of(even(2, 4), {0, 1});
  StatsBook book(StatsBook::Detail::kTerms);
  without.probabilities.value = without.logits.value = at::Tensor();
  book.record(3, without, 4, none(4), {});
  for (const LossKind& kind : loss_kinds()) {
    EXPECT_NE(message_of([&] { kind.loss(book, {}); }).find("layer 3"), std::string::npos) << kind.name;
  }
  StatsBook counts(StatsBook::Detail::kAll);
  counts.record(0, routing_of(even(2, 4), {0, 1}), 4, none(4), {});
  EXPECT_NE(message_of([&] { balance_loss(counts); }).find("kTerms"), std::string::npos);
}

}  // namespace
}  // namespace smoe
