// What reference implementations of routers get wrong again and again, asked of every kind: a softmax taken twice, a router
// that the task does not teach, tokens that see each other, padding in the statistics, inputs written to, losses that
// depend on how a batch is cut. That layers must not be pooled is a matter of the losses: losses_test.cpp.
#include <gtest/gtest.h>

#include "smoe/moe/moe_layer.h"
#include "tests/kernels/mixture_case.h"
#include "tests/moe/every_router.h"

namespace smoe {
namespace {

using testing::dense_weights;
using testing::DialValue;
using testing::expect_same;
using testing::router_tokens;
using testing::rows_of;
using testing::same_bits;
using testing::told;

using RouterHazards = testing::EveryRouter;

INSTANTIATE_TEST_SUITE_P(Kinds, RouterHazards, testing::every_router(), testing::router_name);

TEST_P(RouterHazards, TokensSeeOnlyWhatTheyMay) {
  const auto made = router(6);
  const RouteInput all = input_of(router_tokens(40), some_value(6), 6);
  const at::Tensor whole = dense_weights(made->route(all), 6);
  if (traits().batch_independent) {
    for (const int64_t count : {1, 2, 17, 39}) {
      // A random kind's draws may belong to places of the batch: then tokens may join at its end.
      for (const int64_t first : {int64_t{0}, 40 - count}) {
        if (traits().random_at_evaluation && first > 0) continue;
        const at::Tensor part = dense_weights(made->route(rows_of(all, first, count)), 6);
        EXPECT_TRUE(same_bits(part, whole.narrow(0, first, count).clone())) << count;
      }
    }
  }
  if (traits().causal) {
    RouteInput changed = all;
    changed.x = torch::cat({all.x.narrow(0, 0, 25), router_tokens(15, /*seed=*/2)});
    changed.batch.token = torch::cat({all.batch.token.narrow(0, 0, 25), torch::arange(15)});
    EXPECT_TRUE(torch::equal(dense_weights(made->route(changed), 6).narrow(0, 0, 25), whole.narrow(0, 0, 25)));
  }
}

TEST_P(RouterHazards, InputsStayAsTheyAre) {
  const auto made = router(5);
  for (const bool training : {false, true}) {
    RouteInput input = input_of(router_tokens(20), some_value(5), 5);
    input.training = training;
    const at::Tensor before = input.x.clone(), ids = input.batch.token.clone();
    const auto version = input.x._version();
    const Routing routing = made->route(input);
    EXPECT_TRUE(same_bits(input.x, before));
    EXPECT_TRUE(torch::equal(input.batch.token, ids));
    EXPECT_EQ(input.x._version(), version);
    for (const at::Tensor& out : {routing.weight, routing.logits.value, routing.probabilities.value}) {
      EXPECT_FALSE(out.defined() && out.storage().is_alias_of(input.x.storage()));
    }
  }
}

TEST_P(RouterHazards, ProbabilitiesAreOneSoftmaxOfTheLogits) {
  if (!traits().scores) GTEST_SKIP() << "has neither";
  const Routing routing = router(6)->route(input_of(router_tokens(30), some_value(6), 6));
  EXPECT_TRUE(torch::allclose(routing.probabilities.value, torch::softmax(routing.logits.value, -1), 1e-5, 1e-6));
}

TEST_P(RouterHazards, TheTaskTeachesIt) {
  if (!traits().trainable) GTEST_SKIP() << "not trained";
  MoeConfig config = testing::router_config(GetParam(), 5);
  config.expert_width = 8;
  MoeLayer layer(config, RouterPlace(testing::kRouterWidth, /*mixtures_below=*/1), 0.5, RandomStream(4));
  RouteInput input = input_of(router_tokens(30), dial_is_k() ? DialValue{.k = 3} : some_value(5), 5);
  input.training = true;
  layer.forward(input, {}, nullptr, 0).y.square().sum().backward();
  for (const auto& parameter : layer.router().named_parameters()) {
    if (!parameter.value().requires_grad()) continue;
    ASSERT_TRUE(parameter.value().grad().defined()) << parameter.key();
    EXPECT_GT(parameter.value().grad().abs().sum().item<double>(), 1e-3) << parameter.key();
  }
}

TEST_P(RouterHazards, PaddingCountsInNoStatistic) {
  const auto made = router(5);
  RouteInput padded = input_of(router_tokens(30), some_value(5), 5);
  padded.batch.valid = torch::arange(30).lt(22);
  // At evaluation, as if the padding were not there.
  RouteInput alone = rows_of(padded, 0, 22);
  alone.batch.valid = at::Tensor();
  expect_same(told(made->route(padded), 5, padded.batch.valid, losses()), told(made->route(alone), 5, {}, losses()));
  // In training, the kind's own terms included, whatever the padding holds.
  padded.training = true;
  RouteInput other = padded;
  other.x = torch::cat({padded.x.narrow(0, 0, 22), router_tokens(8, /*seed=*/3) * 50});
  expect_same(told(made->route(padded), 5, padded.batch.valid, losses()),
              told(made->route(other), 5, other.batch.valid, losses()));
}

TEST_P(RouterHazards, MicroBatchesAddUp) {
  if (!traits().scores || !traits().batch_independent) GTEST_SKIP() << "not promised";
  // Losses that are means over tokens have, over the micro-batches of a step, the gradient of the whole batch.
  const auto made = router(5);
  const at::Tensor x = router_tokens(24).set_requires_grad(true);
  const auto gradient = [&](int64_t parts) {
    const int64_t size = 24 / parts;
    x.mutable_grad() = at::Tensor();
    for (int64_t i = 0; i < parts; ++i) {
      const Routing routing = made->route(rows_of(input_of(x, some_value(5), 5), i * size, size));
      at::Tensor sum = torch::zeros({});
      for (const NamedLoss& loss : told(routing, 5, {}, {.balance = 0, .z = 1, .entropy = 1}).losses)
        sum = sum + loss.value;
      (sum / static_cast<double>(parts)).backward();
    }
    return x.grad().clone();
  };
  const at::Tensor whole = gradient(1);
  EXPECT_GT(whole.abs().sum().item<double>(), 0.01);
  for (const int64_t parts : {2, 8, 24}) EXPECT_TRUE(torch::allclose(gradient(parts), whole, 1e-4, 1e-6)) << parts;
}

TEST_P(RouterHazards, NoTokenHasNoLoss) {
  const auto made = router(4);
  for (const bool training : {false, true}) {
    RouteInput input = input_of(router_tokens(0), some_value(4), 4);
    input.training = training;
    for (const NamedLoss& loss : told(made->route(input), 4, {}, losses()).losses) {
      EXPECT_EQ(loss.value.item<double>(), 0) << loss.name;
    }
  }
}

}  // namespace
}  // namespace smoe
