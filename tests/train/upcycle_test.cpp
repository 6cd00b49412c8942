// Trained models that become larger ones.
#include "smoe/train/upcycle.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <atomic>
#include <functional>
#include <map>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/json.h"
#include "smoe/models/model_parts.h"
#include "smoe/moe/moe_layer.h"
#include "smoe/train/evaluate.h"
#include "smoe/train/trainer.h"
#include "tests/base/temp_folder.h"
#include "tests/train/tiny_run.h"

namespace smoe {
namespace {

using testing::kNoStop;
using testing::output;

/// A dense model of three layers.
ModelSpec dense_spec() {
  ModelSpec spec;
  spec.model = {.layers = 3, .width = 16, .heads = 2, .head_width = 8, .ffn_width = 24};
  spec.model.moe_layers = {.all = false, .ids = {}};
  spec.model.dropout = 0;
  spec.vocabulary = 20;
  return spec;
}

/// The same with mixtures in its last two layers.
ModelSpec mixture_spec(const std::string& router = "post_moe", int64_t experts = 5) {
  ModelSpec spec = dense_spec();
  spec.model.moe_layers.ids = {1, 2};
  spec.moe.experts = experts;
  spec.moe.expert_width = 24;
  spec.moe.router = router;
  spec.moe.router_init_std = 0.5;
  return spec;
}

/// A model whose parameters, biases too, are all drawn.
std::shared_ptr<LanguageModel> trained(const ModelSpec& spec, uint64_t seed = 3) {
  const auto model = make_model(spec, RandomStream(1));
  const torch::NoGradGuard no_grad;
  for (const auto& [name, value] : named_tensors(*model)) RandomStream(seed).at(name).fill_normal(value, 0, 0.3);
  return model;
}

std::string refusal(const ModelSpec& from, const std::function<void(ModelSpec&)>& change) {
  ModelSpec to = mixture_spec();
  change(to);
  return message_of([&] { upcycle(*make_model(from, RandomStream(1)), to, RandomStream(2)); });
}

TEST(Upcycle, AnswersAsTheDenseModelDidWhereWeightsSumToOne) {
  const auto dense = trained(dense_spec());
  const at::Tensor want = output(*dense, 0);
  for (const char* router : {"post_moe", "learned"}) {
    const auto made = upcycle(*dense, mixture_spec(router), RandomStream(2));
    for (const int64_t k : {1, 2, 5}) {
      EXPECT_TRUE(torch::allclose(output(*made, k), want, 1e-5, 1e-5)) << router << ' ' << k;
    }
  }
  // Without that, two copies of a block answer with their probabilities' part of it.
  ModelSpec published = mixture_spec();
  published.moe.routers.post_moe.renormalize = false;
  const auto made = upcycle(*dense, published, RandomStream(2));
  EXPECT_TRUE(torch::allclose(output(*made, 5), want, 1e-5, 1e-5));
  EXPECT_FALSE(torch::allclose(output(*made, 2), want, 1e-3, 1e-3));
}

TEST(Upcycle, OneExpertIsTheBlock) {
  const auto dense = trained(dense_spec());
  const auto made = upcycle(*dense, mixture_spec("post_moe", 1), RandomStream(2));
  EXPECT_TRUE(torch::allclose(output(*made, 1), output(*dense, 0), 1e-5, 1e-5));
}

TEST(Upcycle, CopiesEverythingAndDrawsTheRouters) {
  const auto dense = trained(dense_spec());
  const auto made = upcycle(*dense, mixture_spec(), RandomStream(2));
  const auto before = dense->named_parameters();
  const auto drawn_model = make_model(mixture_spec(), RandomStream(2));
  const auto drawn = drawn_model->named_parameters();
  int experts = 0;
  for (const auto& [name, value] : named_tensors(*made)) {
    if (part_of(name) == "router") {
      EXPECT_TRUE(torch::equal(value, drawn[name])) << name;
    } else if (part_of(name) == "experts") {
      std::string block = name;
      block.replace(block.find("moe.experts.0"), std::string("moe.experts.0").size(), "ffn");
      EXPECT_TRUE(torch::equal(value, before[block].expand_as(value))) << name;
      ++experts;
    } else {
      EXPECT_TRUE(torch::equal(value, before[name])) << name;  // the dense block of layer 0 bit for bit
    }
    EXPECT_EQ(value.requires_grad(), drawn[name].requires_grad()) << name;
  }
  EXPECT_EQ(experts, 2 * 4);
}

TEST(Upcycle, GatedBlocksAndAnyExpertsThatAreNoNetworks) {
  ModelSpec from = dense_spec(), to = mixture_spec("moe_pp", 6);
  from.moe.activation = to.moe.activation = "swiglu";
  to.moe.null_experts = to.moe.copy_experts = to.moe.constant_experts = 1;
  const auto dense = trained(from);
  const auto made = upcycle(*dense, to, RandomStream(2));
  const at::Tensor w1 = made->named_parameters()["layers.2.moe.experts.0.w1"];
  EXPECT_EQ(w1.size(0), 3);
  EXPECT_TRUE(torch::equal(w1[2], dense->named_parameters()["layers.2.ffn.w1"]));
}

TEST(Upcycle, MoreMixturesThanBefore) {
  ModelSpec from = mixture_spec("learned"), to = from;
  from.model.moe_layers.ids = {2};
  const auto few = trained(from);
  const auto made = upcycle(*few, to, RandomStream(2));
  for (const int64_t k : {1, 2, 5}) {
    EXPECT_TRUE(torch::allclose(output(*made, k), output(*few, k), 1e-5, 1e-5)) << k;
  }
}

TEST(Upcycle, NullExpertsAreTwinsOfTheNetworks) {
  const auto before = trained(mixture_spec("learned", 4));
  ModelSpec to = mixture_spec("adamoe", 10);
  to.moe.null_experts = 6;
  const auto made = upcycle(*before, to, RandomStream(2));
  const at::Tensor weight = made->named_parameters()["layers.1.moe.router.weight"];
  const at::Tensor own = before->named_parameters()["layers.1.moe.router.weight"];
  EXPECT_TRUE(torch::equal(weight, own.index_select(0, torch::tensor({0, 1, 2, 3, 0, 1, 2, 3, 0, 1}))));
  for (const auto& [name, value] : named_tensors(*made)) {
    if (part_of(name) == "router") continue;
    EXPECT_TRUE(torch::equal(value, before->named_parameters()[name])) << name;
  }
}

TEST(Upcycle, WithATwinForEachNetworkKBecomesTwiceAsLarge) {
  // Pairs of equals are taken together, so that the networks are the k first ones.
  for (const int64_t times : {1, 2}) {
    const auto before = trained(mixture_spec("learned", 4));
    ModelSpec to = mixture_spec("adamoe", 4 * (1 + times));
    to.moe.null_experts = 4 * times;
    const auto made = upcycle(*before, to, RandomStream(2));
    for (const int64_t k : {1, 2, 4}) {
      EXPECT_TRUE(torch::allclose(output(*made, k * (1 + times)), output(*before, k), 1e-5, 1e-5)) << times << ' ' << k;
    }
  }
}

TEST(Upcycle, NullExpertsBesideOthers) {
  // More of them among copies and constants, whose ids and groups move.
  ModelSpec from = mixture_spec("adamoe", 7), to = mixture_spec("adamoe", 10);
  from.moe.copy_experts = to.moe.copy_experts = from.moe.constant_experts = to.moe.constant_experts = 2;
  to.moe.null_experts = 3;
  const auto before = trained(from);
  const auto made = upcycle(*before, to, RandomStream(2));
  const auto one = before->named_parameters(), other = made->named_parameters();
  EXPECT_TRUE(torch::equal(other["layers.2.moe.experts.3.value"], one["layers.2.moe.experts.2.value"]));
  EXPECT_TRUE(torch::equal(other["layers.2.moe.router.weight"], one["layers.2.moe.router.weight"].index_select(
                                                                    0, torch::tensor({0, 1, 2, 0, 1, 2, 3, 4, 5, 6}))));
  from = to;
  to.moe.experts = 11;
  to.moe.null_experts = 4;
  const auto again = upcycle(*made, to, RandomStream(2));
  EXPECT_TRUE(torch::equal(
      again->named_parameters()["layers.2.moe.router.weight"],
      other["layers.2.moe.router.weight"].index_select(0, torch::tensor({0, 1, 2, 3, 4, 5, 0, 6, 7, 8, 9}))));
}

TEST(Upcycle, TheSameSpecIsTheSameModel) {
  for (const char* router : {"post_moe", "rmoe", "comet", "moe_pp", "random_frozen", "hash"}) {
    const auto before = trained(mixture_spec(router));
    const auto made = upcycle(*before, mixture_spec(router), RandomStream(2));
    for (const auto& [name, value] : named_tensors(*made)) {
      EXPECT_TRUE(torch::equal(value, before->named_parameters()[name])) << router << ' ' << name;
    }
  }
}

TEST(Upcycle, RefusesModelsThatDoNotFit) {
  EXPECT_EQ(refusal(dense_spec(), [](ModelSpec&) {}), "(nothing was thrown)");
  EXPECT_EQ(refusal(dense_spec(), [](ModelSpec& to) { to.model.width = 18; }),
            "model.width is 16 in the model and 18 in the recipe; they must be the same");
  EXPECT_EQ(refusal(dense_spec(), [](ModelSpec& to) { to.model.layers = 4; }),
            "model.layers is 3 in the model and 4 in the recipe; they must be the same");
  EXPECT_EQ(refusal(dense_spec(), [](ModelSpec& to) { to.moe.activation = "gelu"; }),
            "moe.activation is \"relu\" in the model and \"gelu\" in the recipe; they must be the same");
  EXPECT_EQ(refusal(dense_spec(), [](ModelSpec& to) { to.vocabulary = 21; }),
            "the model has 20 tokens, the recipe's data 21");
  EXPECT_EQ(refusal(dense_spec(), [](ModelSpec& to) { to.model.ffn_width = 25; }),
            "model.ffn_width is 24 in the model and 25 in the recipe; they must be the same");
  EXPECT_EQ(
      refusal(dense_spec(), [](ModelSpec& to) { to.moe.expert_width = 12; }),
      "moe.expert_width is 12 in the recipe and model.ffn_width 24 in the model; an expert is as wide as the block "
      "that it is a copy of");
  EXPECT_NE(refusal(dense_spec(), [](ModelSpec& to) { to.moe.shared_experts = 1; }).find("moe.shared_experts is 1"),
            std::string::npos);
  EXPECT_NE(refusal(dense_spec(), [](ModelSpec& to) { to.model.attention = "mixture"; }).find("model.attention is"),
            std::string::npos);
}

TEST(Upcycle, RefusesMixturesThatWouldBeOthers) {
  const ModelSpec from = mixture_spec();
  EXPECT_EQ(
      refusal(from, [](ModelSpec& to) { to.moe.experts = 6; }),
      "the mixtures have 5 networks in the model and 6 in the recipe (moe.experts less those of other kinds); only "
      "null experts can be added");
  EXPECT_EQ(
      refusal(from, [](ModelSpec& to) { to.model.moe_layers.ids = {2}; }),
      "model.moe_layers: layer 1 is a mixture in the model and dense in the recipe; a mixture does not become one "
      "block");
  EXPECT_NE(refusal(from, [](ModelSpec& to) { to.moe.expert_width = 12; }).find("moe.expert_width is 24 in the model"),
            std::string::npos);
  EXPECT_NE(refusal(from, [](ModelSpec& to) { to.moe.constant_experts = 1; }).find("moe.constant_experts is 0"),
            std::string::npos);
  ModelSpec nulls = mixture_spec("post_moe", 7);
  nulls.moe.null_experts = 2;
  EXPECT_EQ(refusal(nulls, [](ModelSpec&) {}),
            "moe.null_experts is 2 in the model and 0 in the recipe; they can only become more");
  // Routers that know different things.
  EXPECT_EQ(refusal(mixture_spec("random_frozen"), [](ModelSpec&) {}),
            "the router 'post_moe' of the recipe has no 'layers.1.moe.router.bias', which the model's has learnt");
  EXPECT_EQ(
      refusal(from, [](ModelSpec& to) { to.moe.router = "noisy_topk"; }),
      "the router 'noisy_topk' of the recipe has 'layers.1.moe.router.noise_weight', which the model's does not know");
  EXPECT_NE(refusal(mixture_spec("moe_pp"),
                    [](ModelSpec& to) {
                      to.moe.router = "moe_pp";
                      to.moe.experts = 6;
                      to.moe.null_experts = 1;
                    })
                .find("layers.2.moe.router.below_weight"),
            std::string::npos);
}

/// A run of a dense model, and a recipe with mixtures in its place.
struct Runs {
  explicit Runs(const TempFolder& folder) : dense(testing::tiny_recipe(folder.path())) {
    dense.model.moe_layers = {.all = false, .ids = {}};
    dense.train.steps = 6;
    start_training(dense, folder / "dense")->run(kNoStop, nullptr);
    mixture = dense;
    mixture.model.moe_layers.ids = {1};
    mixture.moe.expert_width = 64;
    mixture.moe.router = "learned";
    mixture.k_schedule = {.kind = "constant", .min = 2, .max = 2};
    source = load_model(resolve_model(folder / "dense", CheckpointRole::kLast));
  }

  Recipe dense, mixture;
  LoadedModel source;
};

TEST(Upcycle, ACheckpointIsWhatATrainingBeginsWith) {
  const TempFolder folder;
  Runs runs(folder);
  const auto made = upcycle(runs.source, runs.mixture);
  save_upcycled(folder / "made", *made, runs.source, runs.mixture);
  const auto record = read_json_object(folder / "made/upcycle.json");
  EXPECT_EQ(record["format"], "smoe-upcycle");
  EXPECT_EQ(record["recipe"]["moe"]["expert_width"], 64);
  EXPECT_EQ(recorded_data(folder / "made").sha256, recorded_data(runs.source.folder).sha256);
  EXPECT_EQ(recorded_data(folder / "made").step, 6);
  const LoadedModel loaded = load_model(folder / "made");
  const auto saved = loaded.model->named_parameters();
  // The routers are those that the training would have drawn.
  const auto fresh = start_training(runs.mixture, folder / "fresh");
  runs.mixture.train.init = folder / "made";
  const auto trainer = start_training(runs.mixture, folder / "run");
  for (const auto& [name, value] : named_tensors(trainer->model())) {
    EXPECT_TRUE(torch::equal(value, saved[name])) << name;
    if (part_of(name) == "router") {
      EXPECT_TRUE(torch::equal(value, fresh->model().named_parameters()[name])) << name;
    }
  }
  const auto name = "layers.1.moe.experts.0.w1";
  trainer->train_step(nullptr);
  const at::Tensor w1 = trainer->model().named_parameters()[name];
  EXPECT_FALSE(torch::equal(w1[0], w1[1])) << "copies part as they are trained";
}

TEST(Upcycle, ATrainingThatBeganWithACheckpointGoesOnWithoutIt) {
  const TempFolder folder;
  Runs runs(folder);
  save_upcycled(folder / "made", *upcycle(runs.source, runs.mixture), runs.source, runs.mixture);
  runs.mixture.train.init = folder / "made";
  start_training(runs.mixture, folder / "whole")->run(kNoStop, nullptr);
  const std::atomic<int> stop_at_once{15};
  start_training(runs.mixture, folder / "pieces")->run(stop_at_once, nullptr);
  std::filesystem::remove_all(folder / "made");
  Trainer(RunFolder::open(folder / "pieces"), runs.mixture).run(kNoStop, nullptr);
  const auto last = [&](const char* run) {
    return load_tensors(resolve_model(folder / run, CheckpointRole::kLast) / "model.safetensors");
  };
  const NamedTensors want = last("whole"), got = last("pieces");
  ASSERT_EQ(want.size(), got.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(torch::equal(want[i].second, got[i].second)) << want[i].first;
}

TEST(Upcycle, ATrainingRefusesToBeginWithAnotherModel) {
  const TempFolder folder;
  Runs runs(folder);
  const auto fault = [&](const Recipe& recipe) {
    const std::string message = message_of([&] { start_training(recipe, folder / "run"); });
    EXPECT_FALSE(std::filesystem::exists(folder / "run"));
    return message;
  };
  Recipe recipe = runs.mixture;
  recipe.train.init = folder / "nowhere";
  EXPECT_NE(fault(recipe).find("nowhere: no such run or checkpoint"), std::string::npos);
  recipe.train.init = folder / "dense";
  EXPECT_NE(
      fault(recipe).find(": model.moe_layers is \"none\" in the model and [1] in the recipe; they must be the same; "
                         "smoe upcycle makes a model for a recipe"),
      std::string::npos)
      << fault(recipe);
  recipe = runs.dense;
  recipe.train.init = folder / "dense";
  recipe.model.ffn_width = 32;
  EXPECT_NE(fault(recipe).find("model.ffn_width is 64 in the model and 32"), std::string::npos);
  recipe.model.ffn_width = 64;
  Recipe other = runs.mixture;  // the same settings of the model, other tensors of its router
  save_upcycled(folder / "made", *upcycle(runs.source, other), runs.source, other);
  other.train.init = folder / "made";
  other.moe.routers.learned.bias_rate = 0.1;
  EXPECT_NE(fault(other).find("the model has no 'layers.1.moe.router.selection_bias', and the recipe's has"),
            std::string::npos)
      << fault(other);
  recipe.data.format = "enwik8";
  EXPECT_NE(fault(recipe).find("its tokens are others"), std::string::npos);
  EXPECT_NE(message_of([&] { upcycle(runs.source, recipe); }).find("data.format is \"bytes\" in the model"),
            std::string::npos);
}

}  // namespace
}  // namespace smoe
