#include "tests/base/temp_folder.h"
#include "tests/moe/routers/golden_case.h"

namespace smoe {
namespace {

using testing::dense_weights;
using testing::make_router;
using testing::router_config;
using testing::router_input;
using testing::router_tokens;

RouteInput training_input(int64_t tokens, uint64_t key = 5) {
  RouteInput input = router_input(router_tokens(tokens), {});
  input.training = true;
  input.random = RandomStream(key);
  return input;
}

/// Whether rows a and b of a dense routing are the same.
bool same(const at::Tensor& dense, int64_t a, int64_t b) { return torch::equal(dense[a], dense[b]); }

TEST(Thor, InTrainingOneExpertTakesTheBatch) {
  const auto router = make_router("thor", 8);
  std::vector<int64_t> count(8);
  for (uint64_t key = 0; key < 2000; ++key) {
    const Routing routing = router->route(training_input(6, key));
    ASSERT_EQ(routing.expert.size(1), 1);
    ASSERT_TRUE(routing.expert.eq(routing.expert[0][0]).all().item<bool>());
    ASSERT_TRUE(routing.weight.eq(1).all().item<bool>());
    ++count[static_cast<size_t>(routing.expert[0][0].item<int64_t>())];
  }
  double chi_square = 0;
  for (const int64_t n : count) chi_square += static_cast<double>((n - 250) * (n - 250)) / 250;
  EXPECT_LT(chi_square, 29.9);  // seven degrees of freedom; exceeded once in ten thousand
}

TEST(Thor, TheUnitIsWhatItsNameSays) {
  MoeConfig config = router_config("thor", 64);
  config.routers.thor.unit = "sequence";  // of five tokens each
  const at::Tensor by_sequence = dense_weights(make_router(config)->route(training_input(20)), 64);
  EXPECT_TRUE(same(by_sequence, 0, 4) && same(by_sequence, 5, 9));
  EXPECT_FALSE(same(by_sequence, 0, 5) && same(by_sequence, 5, 10) && same(by_sequence, 10, 15));
  config.routers.thor.unit = "token";
  const at::Tensor by_token = dense_weights(make_router(config)->route(training_input(20)), 64);
  EXPECT_FALSE(same(by_token, 0, 1) && same(by_token, 1, 2) && same(by_token, 2, 3));
  RouteInput without = training_input(5);
  without.batch.sequence = at::Tensor();
  config.routers.thor.unit = "sequence";
  EXPECT_NE(message_of([&] { make_router(config)->route(without); }).find("RouteInput.batch.sequence"),
            std::string::npos);
}

TEST(Thor, AtEvaluationItIsTheMeanOfSomeOrOfAll) {
  const auto router = make_router("thor", 6);
  for (const double samples : {1.0, 3.0, 6.0}) {
    const Routing routing = router->route(router_input(router_tokens(40), {.dial = samples}));
    EXPECT_EQ(routing.expert.size(1), static_cast<int64_t>(samples));
    EXPECT_TRUE((routing.weight - 1 / samples).abs().lt(1e-6).all().item<bool>());
  }
  // All of them leave nothing to chance.
  RouteInput one = router_input(router_tokens(40), {.dial = 6.0}), other = one;
  other.random = RandomStream(99);
  EXPECT_TRUE(torch::equal(dense_weights(router->route(one), 6), dense_weights(router->route(other), 6)));
  EXPECT_EQ(router->route(router_input(router_tokens(4), {})).expert.size(1), 1);  // the setting
  EXPECT_THROW(router->route(router_input(router_tokens(4), {.dial = 1.5})), UserError);
}

TEST(Thor, RefusesMoreSamplesThanExperts) {
  MoeConfig config = router_config("thor", 4);
  config.routers.thor.samples = 5;
  EXPECT_NE(message_of([&] { config.check(); }).find("moe.thor.samples = 5"), std::string::npos);
}

}  // namespace
}  // namespace smoe
