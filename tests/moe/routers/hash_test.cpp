#include "smoe/base/error.h"
#include "tests/base/temp_folder.h"
#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::dense_weights;
using testing::make_router;
using testing::router_config;
using testing::router_input;
using testing::router_tokens;

TEST(Hash, DrawsWhatTheKeySays) {
  const auto router = testing::golden_router(router_config("hash", 6));
  // 0x0000ABCDEF123456, the low 24 bits first.
  router->named_parameters()["key"].set_data(torch::tensor({0x123456, 0xABCDEF}, torch::kFloat64));
  RouteInput input = router_input(testing::golden_tokens(), {.k = 2});
  input.batch.token = torch::arange(golden::kTokens);
  testing::expect_golden(router->route(input), golden::kHash2);
}

TEST(Hash, IsAFunctionOfTheIdAlone) {
  const auto router = make_router("hash", 8);
  const at::Tensor ids = torch::tensor({3, 9, 3, 200, 9, 3});
  RouteInput input = router_input(router_tokens(6), {.k = 3});
  input.batch.token = ids;
  const at::Tensor dense = dense_weights(router->route(input), 8);
  for (int64_t a = 0; a < 6; ++a) {
    for (int64_t b = 0; b < 6; ++b) {
      EXPECT_EQ(torch::equal(dense[a], dense[b]), torch::equal(ids[a], ids[b])) << a << " " << b;
    }
  }
  input.x = router_tokens(6, /*seed=*/2);
  input.batch.position = torch::arange(6) + 100;
  EXPECT_TRUE(torch::equal(dense, dense_weights(router->route(input), 8)));
  EXPECT_TRUE(dense.sum(-1).eq(1).logical_or((dense.sum(-1) - 1).abs().lt(1e-6)).all().item<bool>());
  // The experts of k are among those of k + 1.
  input.k = 4;
  EXPECT_TRUE(dense_weights(router->route(input), 8).gt(0).logical_or(dense.eq(0)).all().item<bool>());
}

TEST(Hash, ByPosition) {
  MoeConfig config = router_config("hash", 8);
  config.routers.hash.by = "position";
  const auto router = make_router(config);
  RouteInput input = router_input(router_tokens(6), {.k = 2});
  input.batch.position = torch::tensor({0, 1, 2, 0, 1, 2});
  const at::Tensor dense = dense_weights(router->route(input), 8);
  EXPECT_TRUE(torch::equal(dense.narrow(0, 0, 3), dense.narrow(0, 3, 3)));
  input.batch.token = torch::zeros({6}, torch::kInt64);
  EXPECT_TRUE(torch::equal(dense, dense_weights(router->route(input), 8)));
}

TEST(Hash, SpreadsIdsEvenlyAndLayersDifferently) {
  RouteInput input = router_input(router_tokens(4000), {.k = 1});
  input.batch.token = torch::arange(4000);
  const Routing one = make_router("hash", 8, 1)->route(input), other = make_router("hash", 8, 2)->route(input);
  const at::Tensor count = one.expert.to(torch::kInt64).flatten().bincount({}, 8);
  // 500 each, with a deviation of 21.
  EXPECT_GT(count.min().item<int64_t>(), 400);
  EXPECT_LT(count.max().item<int64_t>(), 600);
  const double same = one.expert.eq(other.expert).to(torch::kFloat64).mean().item<double>();
  EXPECT_NEAR(same, 1.0 / 8, 0.04);
}

TEST(Hash, NeedsIds) {
  RouteInput input = router_input(router_tokens(3), {.k = 1});
  input.batch.token = at::Tensor();
  EXPECT_NE(message_of([&] { make_router("hash", 4)->route(input); }).find("RouteInput.batch.token"),
            std::string::npos);
}

}  // namespace
}  // namespace smoe
