#include "smoe/train/memory_need.h"

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "smoe/base/file.h"
#include "smoe/models/sampler.h"
#include "smoe/train/trainer.h"
#include "tests/base/temp_folder.h"
#include "tests/train/tiny_run.h"

namespace smoe {
namespace {

/// Adds up what LibTorch's tensors on the CPU take that are made while it is installed: what was kept before, as packed
/// weights are, may well be given back meanwhile.
class TensorMemory : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void* place, int64_t size, size_t, size_t, c10::Device) override {
    if (size < 0 && seen_.erase(place) == 0) return;
    if (size > 0) seen_.insert(place);
    now_ += size;
    peak_ = std::max(peak_, now_);
  }
  bool memoryProfilingEnabled() const override { return true; }

  double peak() const { return static_cast<double>(peak_); }

 private:
  std::set<void*> seen_;
  int64_t now_ = 0, peak_ = 0;
};

/// A recipe whose tensors are large enough to drown what is not estimated.
Recipe larger_recipe(const std::filesystem::path& folder) {
  Recipe recipe = testing::tiny_recipe(folder);
  write_file_atomic(recipe.data.path, testing::tiny_text(120'000));
  recipe.model = {.layers = 3, .width = 64, .heads = 4, .head_width = 16, .ffn_width = 256, .dropout = 0};
  recipe.moe.experts = 8;
  recipe.moe.expert_width = 64;
  recipe.k_schedule = {.kind = "constant", .min = 4, .max = 4};
  recipe.train.batch = 4;
  recipe.train.segment = recipe.train.memory = recipe.train.eval_segment = 256;
  recipe.train.eval_batch = 1;
  recipe.train.eval_tokens = 600;
  recipe.train.steps = 3;
  recipe.train.eval_every = 3;
  recipe.train.small_k = 2;
  return recipe;
}

/// Trains, and returns the estimate of the tensors' memory over what they took.
double estimate_over_measurement(const Recipe& recipe, const std::filesystem::path& run) {
  const auto measured = std::make_shared<TensorMemory>();
  {
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, measured);
    const std::atomic<int> no_stop{0};
    EXPECT_TRUE(start_training(recipe, run)->run(no_stop, nullptr));
  }
  const MemoryNeed need = training_memory(*model_without_values(recipe, 256), recipe).value();
  return need.tensors() / measured->peak();
}

struct Case {
  const char* name;
  std::function<void(Recipe&)> change;
  double most = 1.4;
};

class TrainingMemory : public ::testing::TestWithParam<Case> {};

TEST_P(TrainingMemory, IsCloseToWhatATrainingTakes) {
  const TempFolder folder;
  Recipe recipe = larger_recipe(folder.path());
  GetParam().change(recipe);
  const double ratio = estimate_over_measurement(recipe, folder / "run");
  RecordProperty("ratio", std::to_string(ratio));
  EXPECT_GT(ratio, 0.9);
  EXPECT_LT(ratio, GetParam().most);
}

INSTANTIATE_TEST_SUITE_P(
    Recipes, TrainingMemory,
    ::testing::Values(Case{"plain", [](Recipe&) {}},  //
                      Case{"bf16", [](Recipe& r) { r.train.dtype = "bf16"; }},
                      Case{"dropout", [](Recipe& r) { r.model.dropout = r.model.attention_dropout = 0.1; }},
                      Case{"dense", [](Recipe& r) { r.model.moe_layers = {.all = false, .ids = {}}; }},
                      Case{"dense_dropout",
                           [](Recipe& r) {
                             r.model.moe_layers = {.all = false, .ids = {}};
                             r.model.dropout = 0.1;
                           }},
                      Case{"dense_bf16_swiglu",
                           [](Recipe& r) {
                             r.model.moe_layers = {.all = false, .ids = {}};
                             r.moe.activation = "swiglu";
                             r.train.dtype = "bf16";
                           }},
                      Case{"swiglu", [](Recipe& r) { r.moe.activation = "swiglu"; }},
                      Case{"gelu_two_experts",
                           [](Recipe& r) {
                             r.moe.activation = "gelu";
                             r.moe.experts = 2;
                             r.k_schedule = {.kind = "constant", .min = 2, .max = 2};
                           }},
                      Case{"shared", [](Recipe& r) { r.moe.shared_experts = 2; }},
                      Case{"accumulated", [](Recipe& r) { r.train.accumulate = 4; }},
                      Case{"switch", [](Recipe& r) { r.moe.router = "switch"; }},
                      Case{"gshard", [](Recipe& r) { r.moe.router = "gshard"; }},
                      Case{"expert_choice", [](Recipe& r) { r.moe.router = "expert_choice"; }},
                      Case{"thor",
                           [](Recipe& r) {
                             r.moe.router = "thor";
                             r.objective.kind = "thor";
                           }},
                      Case{"mixture_attention", [](Recipe& r) { r.model.attention = "mixture"; }},
                      Case{"mixture_attention_bf16_learned",
                           [](Recipe& r) {
                             r.model.attention = "mixture";
                             r.model.mixture = {.layers = {.all = false, .ids = {0, 1}}, .experts = 4, .k = 2};
                             r.moe.router = "learned";
                             r.train.dtype = "bf16";
                           },
                           1.8},
                      Case{"averaged", [](Recipe& r) { r.average.start = 0; }},
                      Case{"no_memory", [](Recipe& r) { r.train.memory = 0; }},
                      Case{"long_evaluation",
                           [](Recipe& r) {
                             r.train.batch = 1;
                             r.train.segment = r.train.memory = 32;
                             r.train.eval_segment = 32;
                             r.train.eval_batch = 64;
                             r.train.eval_tokens = 64 * r.train.eval_batch;
                           }},
                      Case{"many_parameters",
                           [](Recipe& r) {
                             r.moe.experts = 64;
                             r.train.batch = 1;
                             r.train.segment = r.train.memory = r.train.eval_segment = 8;
                           }}),
    [](const auto& instance) { return std::string(instance.param.name); });

TEST(TrainingMemoryOfBodies, IsCloseForTheOnesThatAreAskedFor) {
  for (const char* body : {"reference", "grouped"}) {
    const TempFolder folder;
    ::setenv("SMOE_KERNEL", body, 1);
    const double ratio = estimate_over_measurement(larger_recipe(folder.path()), folder / "run");
    ::unsetenv("SMOE_KERNEL");
    EXPECT_GT(ratio, 0.8) << body;
    EXPECT_LT(ratio, 1.4) << body;
  }
}

TEST(GenerationMemory, IsCloseToWhatGenerationTakes) {
  const TempFolder folder;
  Recipe recipe = larger_recipe(folder.path());
  for (const char* dtype : {"fp32", "bf16"}) {
    recipe.train.dtype = dtype;
    const auto model = make_model(recipe.spec(256), RandomStream(1));
    model->set_precision(parse_precision(dtype));
    for (const int64_t memory : {100, 1500}) {
      const GenerateOptions options{.k = 8, .tokens = 400, .memory = memory};
      const auto measured = std::make_shared<TensorMemory>();
      {
        const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, measured);
        generate(*model, std::vector<int64_t>(1500, 32), options, [](int64_t) { return true; });
      }
      const MemoryNeed need = generation_memory(*model, {.memory = memory}, options.k);
      // Of the buffers of keys and values it is not known how full they are.
      const double ratio = (need.tensors() - need.weights) / measured->peak();
      EXPECT_GT(ratio, 0.9) << dtype << ", memory " << memory;
      EXPECT_LT(ratio, 1.6) << dtype << ", memory " << memory;
    }
  }
}

TEST(TrainingMemoryReference, OfAnotherDeviceNothingIsSaid) {
  Recipe recipe;
  recipe.train.device = "cuda";
  EXPECT_FALSE(training_memory(*model_without_values(recipe, 256), recipe).has_value());
}

TEST(MemoryNeed, GrowsWithWhatItIsMadeOf) {
  const Recipe recipe;
  const auto of = [](const Recipe& r) { return training_memory(*model_without_values(r, 256), r).value(); };
  const MemoryNeed base = of(recipe);
  Recipe wide = recipe;
  wide.train.batch *= 2;
  EXPECT_EQ(of(wide).weights, base.weights);
  EXPECT_NEAR(of(wide).memory, 2 * base.memory, 1);
  EXPECT_GT(of(wide).activations, 1.8 * base.activations);
  EXPECT_EQ(base.optimizer, 2 * base.gradients);
  EXPECT_LT(base.gradients, base.weights) << "the router is frozen";
}

TEST(Shortage, IsOneLineWithBothNumbers) {
  const MemoryNeed need{.program = 1e9, .weights = 2e9};
  EXPECT_FALSE(shortage(need, {.bytes = 3'000'000'000, .source = "this machine"}).has_value());
  EXPECT_FALSE(shortage(need, {}).has_value()) << "nothing is known";
  EXPECT_EQ(shortage(need, {.bytes = 2'900'000'000, .source = "this machine"}).value(),
            "needs about 3.0 GB of memory, and this machine has 2.9 GB");
  EXPECT_EQ(shortage(need, {.bytes = 1'000, .source = "/sys/fs/cgroup/memory.max"}).value(),
            "needs about 3.0 GB of memory, and /sys/fs/cgroup/memory.max allows 1.0 kB");
}

}  // namespace
}  // namespace smoe
