#include "smoe/train/optimizer.h"

#include <ATen/Context.h>
#include <gtest/gtest.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>

#include <cmath>
#include <limits>

#include "smoe/base/error.h"
#include "smoe/tensor/random_stream.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

/// Parameters of sizes that fill vectors and threads unevenly, one of them frozen, one empty.
class Parameters : public torch::nn::Module {
 public:
  explicit Parameters(at::ScalarType type) {
    const std::vector<std::vector<int64_t>> sizes = {{1}, {3, 5}, {1000}, {0, 4}, {301, 257}, {64}, {70001}};
    for (size_t i = 0; i < sizes.size(); ++i) {
      register_parameter(concat("p", i), random(sizes[i], 100 + i).to(type));
    }
    register_parameter("frozen", torch::ones({4}, type), /*requires_grad=*/false);
  }

  static at::Tensor random(at::IntArrayRef sizes, uint64_t seed) {
    at::Tensor out = torch::empty(sizes, torch::kDouble);
    RandomStream(seed).fill_normal(out, 0, 1);
    return out;
  }

  void set_gradients(uint64_t seed, double size) {
    for (at::Tensor& p : parameters()) {
      if (p.requires_grad()) p.mutable_grad() = (random(p.sizes(), seed++) * size).to(p.scalar_type());
    }
  }
};

std::vector<at::Tensor> trainable(const torch::nn::Module& module) {
  std::vector<at::Tensor> out;
  for (const at::Tensor& p : module.parameters()) {
    if (p.requires_grad()) out.push_back(p);
  }
  return out;
}

double norm_of(const std::vector<at::Tensor>& parameters) {
  double sum = 0;
  for (const at::Tensor& p : parameters) sum += p.grad().to(torch::kDouble).square().sum().item<double>();
  return std::sqrt(sum);
}

TEST(TrainOptimizer, KnowsNothingOfFrozenParameters) {
  const Parameters module(torch::kFloat);
  const TrainOptimizer optimizer(module, {});
  EXPECT_EQ(optimizer.names(), (std::vector<std::string>{"p0", "p1", "p2", "p3", "p4", "p5", "p6"}));
  EXPECT_EQ(optimizer.state().size(), 3 * optimizer.names().size());
}

TEST(TrainOptimizer, StepsAsLibTorchsOptimizers) {
  for (const std::string kind : {"adam", "adamw"}) {
    for (const auto type : {torch::kDouble, torch::kFloat}) {
      // Steps with and without an effect of clipping.
      Parameters ours(type), theirs(type);
      const OptimizerConfig config{
          .kind = kind, .clip_norm = 0.25, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-6, .weight_decay = 0.1};
      TrainOptimizer optimizer(ours, config);
      std::unique_ptr<torch::optim::Optimizer> expected;
      const auto parameters = trainable(theirs);
      if (kind == "adam") {
        expected = std::make_unique<torch::optim::Adam>(
            parameters, torch::optim::AdamOptions().betas({0.8, 0.95}).eps(1e-6).weight_decay(0.1));
      } else {
        expected = std::make_unique<torch::optim::AdamW>(
            parameters, torch::optim::AdamWOptions().betas({0.8, 0.95}).eps(1e-6).weight_decay(0.1));
      }
      for (const double size : {1.0, 1e-4, 30.0, 0.0}) {
        ours.set_gradients(7, size);
        theirs.set_gradients(7, size);
        const double norm = optimizer.gradient_norm();
        EXPECT_NEAR(norm, norm_of(parameters), 1e-5 * norm);
        optimizer.step(0.01, norm);
        torch::nn::utils::clip_grad_norm_(parameters, 0.25);
        for (auto& group : expected->param_groups()) group.options().set_lr(0.01);
        expected->step();
      }
      const auto got = trainable(ours);
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_TRUE(torch::allclose(got[i], parameters[i], 1e-5, type == torch::kDouble ? 1e-7 : 1e-6))
            << kind << ' ' << type << ' ' << i;
      }
    }
  }
}

TEST(TrainOptimizer, TheNumberOfThreadsDoesNotShow) {
  std::vector<std::vector<at::Tensor>> results;
  std::vector<double> norms;
  for (const int threads : {1, 2, 3, 7}) {
    const testing::Threads use(threads);
    Parameters module(torch::kFloat);
    TrainOptimizer optimizer(module, {.weight_decay = 0.01});
    for (int i = 0; i < 2; ++i) {
      module.set_gradients(3, 1);
      norms.push_back(optimizer.gradient_norm());
      optimizer.step(0.01, norms.back());
    }
    results.push_back(trainable(module));
    for (size_t i = 0; i < results[0].size(); ++i) {
      EXPECT_TRUE(torch::equal(results.back()[i], results[0][i])) << threads << " threads, parameter " << i;
    }
    EXPECT_EQ(norms.back(), norms[0]);
  }
}

TEST(TrainOptimizer, OnAGpuTakesTheSameSteps) {
  if (!at::hasCUDA()) GTEST_SKIP() << "LibTorch sees no GPU";
  Parameters here(torch::kFloat), there(torch::kFloat);
  there.to(at::kCUDA);
  TrainOptimizer first(here, {.weight_decay = 0.01}), second(there, {.weight_decay = 0.01});
  for (int i = 0; i < 3; ++i) {
    here.set_gradients(3, 1);
    there.set_gradients(3, 1);
    for (const at::Tensor& p : trainable(there)) p.mutable_grad() = p.grad().to(at::kCUDA);
    const double norm = first.gradient_norm();
    EXPECT_NEAR(second.gradient_norm(), norm, 1e-5 * norm);
    first.step(0.01, norm);
    second.step(0.01, norm);
  }
  const auto want = trainable(here), got = trainable(there);
  for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(torch::allclose(got[i].cpu(), want[i], 1e-5, 1e-6)) << i;
}

TEST(TrainOptimizer, CountsTheVersionOfWhatItChanges) {
  Parameters module(torch::kFloat);
  TrainOptimizer optimizer(module, {});
  const auto parameters = trainable(module);
  for (int i = 0; i < 2; ++i) {
    module.set_gradients(3, 1);
    const at::Tensor& without = parameters[2];
    without.mutable_grad() = at::Tensor();
    const at::Tensor value = without.detach().clone();
    std::vector<int64_t> before;
    for (const at::Tensor& p : parameters) before.push_back(p._version());
    optimizer.step(0.01, optimizer.gradient_norm());
    for (size_t p = 0; p < parameters.size(); ++p) {
      EXPECT_EQ(parameters[p]._version() > before[p], p != 2) << p;
    }
    EXPECT_TRUE(torch::equal(without, value));
  }
  const NamedTensors state = optimizer.state();
  EXPECT_EQ(state[2].first, "adam.updates.p0");
  EXPECT_EQ(state[2].second.item<int64_t>(), 2);
  EXPECT_EQ(state[8].first, "adam.updates.p2");
  EXPECT_EQ(state[8].second.item<int64_t>(), 0);
}

TEST(TrainOptimizer, SeesWhatIsNotFinite) {
  Parameters module(torch::kFloat);
  const TrainOptimizer optimizer(module, {});
  EXPECT_EQ(optimizer.gradient_norm(), 0);  // no gradients
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    module.set_gradients(3, 1);
    EXPECT_TRUE(std::isfinite(optimizer.gradient_norm()));
    EXPECT_EQ(optimizer.first_bad_gradient(), "");
    trainable(module)[6].grad()[70000] = bad;
    EXPECT_FALSE(std::isfinite(optimizer.gradient_norm()));
    EXPECT_EQ(optimizer.first_bad_gradient(), "p6");
  }
}

TEST(TrainOptimizer, GoesOnFromItsState) {
  Parameters whole(torch::kFloat), halves(torch::kFloat);
  TrainOptimizer first(whole, {}), before(halves, {}), after(halves, {});
  for (uint64_t i = 0; i < 4; ++i) {
    whole.set_gradients(50 * i, 1);
    halves.set_gradients(50 * i, 1);
    first.step(0.01, first.gradient_norm());
    TrainOptimizer& now = i < 2 ? before : after;
    if (i == 2) after.load_state(before.state(), "test");
    now.step(0.01, now.gradient_norm());
  }
  for (size_t i = 0; i < trainable(whole).size(); ++i) {
    EXPECT_TRUE(torch::equal(trainable(whole)[i], trainable(halves)[i])) << i;
  }
  NamedTensors short_state = before.state();
  short_state.pop_back();
  EXPECT_THROW(after.load_state(short_state, "test"), UserError);
}

TEST(TrainOptimizer, ZeroingLeavesNoGradient) {
  Parameters module(torch::kFloat);
  TrainOptimizer optimizer(module, {});
  module.set_gradients(3, 1);
  optimizer.zero_gradients();
  for (const at::Tensor& p : module.parameters()) EXPECT_FALSE(p.grad().defined());
}

}  // namespace
}  // namespace smoe
