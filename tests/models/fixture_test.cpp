// The published numeric fixture of SMoE-Dropout's Transformer-XL, to 1e-6 in fp64.
#include <gtest/gtest.h>

#include "smoe/train/optimizer.h"
#include "tests/models/fixture_model.h"

namespace smoe {
namespace {

using testing::fixture_model;
using testing::fixture_nll;
using testing::fixture_tokens;
using testing::gradient_norm;
using testing::parameter;

void expect_near(const std::vector<double>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-6) << "at " << i;
}

TEST(Fixture, MeanNllOfEverySegmentAtEveryK) {
  const auto model = fixture_model(/*dense=*/false);
  expect_near(fixture_nll(*model, 1), {2.81953670, 2.24390084, 2.65476205});
  expect_near(fixture_nll(*model, 2), {2.87792158, 2.30512010, 2.69886470});
  expect_near(fixture_nll(*model, 4), {2.92734414, 2.34581744, 2.70405557});
}

TEST(Fixture, DenseModel) {
  expect_near(fixture_nll(*fixture_model(/*dense=*/true), 1), {2.71911843, 2.20157162, 2.53959987});
}

TEST(Fixture, NllOfEveryTokenOfTheThirdSegment) {
  const torch::NoGradGuard no_grad;
  const auto model = fixture_model(false);
  const at::Tensor tokens = fixture_tokens();
  Memory memory = model->empty_memory(2);
  at::Tensor logits;
  for (int64_t first = 0; first < 9; first += 3) {
    EXPECT_EQ(memory.length(), std::min<int64_t>(first, 4));
    logits = model->forward(tokens.narrow(1, first, 3), memory, {.k = 2, .memory_length = 4});
  }
  const at::Tensor nll = -torch::log_softmax(logits, -1).gather(2, tokens.narrow(1, 7, 3).unsqueeze(2)).squeeze(2);
  const at::Tensor by_time = nll.t().contiguous().view({-1});
  expect_near(std::vector<double>(by_time.data_ptr<double>(), by_time.data_ptr<double>() + 6),
              {3.03973909, 2.58471524, 3.57487412, 1.30911564, 2.53236539, 3.15237871});
}

TEST(Fixture, RoutingAndOutputsOfTheFirstLayer) {
  const torch::NoGradGuard no_grad;
  const auto model = fixture_model(false);
  std::map<std::string, at::Tensor> seen;
  Memory memory = model->empty_memory(2);
  Pass pass{.k = 2, .memory_length = 4};
  pass.probe = [&](const std::string& part, const at::Tensor& output) { seen[part] = output; };
  model->forward(fixture_tokens().narrow(1, 0, 3), memory, pass);

  // What the router of layer 0 saw: its block's attention sub-layer, normalised.
  const at::Tensor x =
      torch::embedding(parameter(*model, "embedding"), fixture_tokens().narrow(1, 0, 3)) * std::sqrt(8.0);
  const at::Tensor y =
      torch::layer_norm(x + seen.at("layers.0.attention"), {8}, parameter(*model, "layers.0.attention_norm_gain"),
                        parameter(*model, "layers.0.attention_norm_bias"));
  RouteInput input;
  input.x = y.transpose(0, 1).reshape({6, 8});  // time first, as the fixture lists its rows
  input.k = 2;
  const Routing routing = model->blocks()[0]->moe()->router().route(input);
  const at::Tensor logits = routing.logits.value[0];
  expect_near({logits[0].item<double>(), logits[1].item<double>(), logits[2].item<double>(), logits[3].item<double>()},
              {1.27136605, 0.94212207, 0.18356790, -0.66203525});
  expect_near({routing.weight[0][0].item<double>(), routing.weight[0][1].item<double>()}, {0.58157541, 0.41842459});
  const at::Tensor chosen = std::get<0>(routing.expert.sort(-1));
  EXPECT_TRUE(torch::equal(chosen, torch::tensor({{0, 1}, {2, 3}, {1, 2}, {0, 1}, {2, 3}, {2, 3}}, torch::kInt)));

  const at::Tensor mixed = seen.at("layers.0.moe").view({2, 3, 8})[0][0];
  expect_near(std::vector<double>(mixed.data_ptr<double>(), mixed.data_ptr<double>() + 8),
              {0.24078805, -0.33508013, 0.64078133, -0.07208977, 0.45321874, -0.10276765, -0.18874625, -0.10757542});
  const at::Tensor block = torch::layer_norm(y[0][0] + mixed, {8}, parameter(*model, "layers.0.output_norm_gain"),
                                             parameter(*model, "layers.0.output_norm_bias"));
  expect_near(std::vector<double>(block.data_ptr<double>(), block.data_ptr<double>() + 8),
              {-0.30203412, 0.05560395, 1.83315074, -0.47207346, 0.18339244, 0.47687803, -1.23004276, -0.51474506});
}

/// A router that a mistaken implementation would be: its input does not get the gradient of the weights.
class DetachedRouter : public Router {
 public:
  explicit DetachedRouter(std::shared_ptr<Router> inner) : inner_(std::move(inner)) {}
  Routing route(const RouteInput& input) override {
    RouteInput detached = input;
    detached.x = input.x.detach();
    return inner_->route(detached);
  }
  RouterTraits traits() const override { return inner_->traits(); }
  int64_t flops_per_token() const override { return inner_->flops_per_token(); }

 private:
  std::shared_ptr<Router> inner_;
};

/// Backward of the k = 2 mean loss of the third segment; memory from the first two, without gradient.
void backward_of_third_segment(LanguageModel& model) {
  const at::Tensor tokens = fixture_tokens();
  Memory memory = model.empty_memory(2);
  for (int64_t first = 0; first < 9; first += 3) {
    const at::Tensor logits =
        model.forward(tokens.narrow(1, first, 3), memory, {.k = 2, .training = true, .memory_length = 4});
    if (first == 6) mean_nll(logits, tokens.narrow(1, 7, 3)).backward();
  }
}

TEST(Fixture, GradientsWithAFrozenRouter) {
  const auto model = fixture_model(false);
  backward_of_third_segment(*model);
  EXPECT_NEAR(gradient_norm(*model), 1.60114585, 1e-6);
  EXPECT_FALSE(parameter(*model, "layers.0.moe.router.weight").grad().defined());
  EXPECT_NEAR(parameter(*model, "embedding").grad().norm().item<double>(), 1.28821104, 1e-6);
  const at::Tensor bias = parameter(*model, "position_bias").grad().view({-1});
  expect_near(std::vector<double>(bias.data_ptr<double>(), bias.data_ptr<double>() + 6),
              {0.00740924, 0.00431257, -0.00071987, -0.00653497, -0.00549278, -0.00198505});
}

TEST(Fixture, GradientsWithATrainableRouter) {
  const auto model = fixture_model(false);
  for (const char* name : {"layers.0.moe.router.weight", "layers.0.moe.router.bias", "layers.1.moe.router.weight",
                           "layers.1.moe.router.bias"}) {
    parameter(*model, name).set_requires_grad(true);
  }
  backward_of_third_segment(*model);
  EXPECT_NEAR(gradient_norm(*model), 1.62061221, 1e-6);
  EXPECT_NEAR(parameter(*model, "layers.0.moe.router.weight").grad().norm().item<double>(), 0.14215709, 1e-6);
}

TEST(Fixture, ADetachedRouterInputGivesOtherGradients) {
  const auto model = fixture_model(false);
  for (const auto& block : model->blocks()) {
    auto router = std::dynamic_pointer_cast<Router>(block->moe()->router().shared_from_this());
    block->moe()->set_router(std::make_shared<DetachedRouter>(router));
  }
  backward_of_third_segment(*model);
  EXPECT_NEAR(gradient_norm(*model), 1.59484824, 1e-6);
}

TEST(Fixture, OneClippedAdamStep) {
  const auto model = fixture_model(false);
  TrainOptimizer adam(*model, {.clip_norm = 0.25});
  backward_of_third_segment(*model);
  const double norm = adam.gradient_norm();
  EXPECT_NEAR(norm, 1.60114585, 1e-6);
  adam.step(1e-2, norm);
  expect_near(fixture_nll(*model, 1), {2.68262265, 2.19898080, 2.42034188});
  expect_near(fixture_nll(*model, 2), {2.72280243, 2.24120683, 2.46027743});
  expect_near(fixture_nll(*model, 4), {2.76976320, 2.27462877, 2.46915079});
}

}  // namespace
}  // namespace smoe
