#include "smoe/slim/keep_experts.h"

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "smoe/base/error.h"
#include "smoe/models/model_folder.h"
#include "smoe/moe/router.h"
#include "tests/base/temp_folder.h"
#include "tests/train/tiny_run.h"

namespace smoe {
namespace {

constexpr int64_t kExperts = 6;

ModelSpec spec_of(int64_t experts = kExperts) {
  ModelSpec spec;
  spec.model = {.layers = 3, .width = 16, .heads = 2, .head_width = 8, .ffn_width = 24};
  spec.model.moe_layers = {.all = false, .ids = {0, 2}};
  spec.moe.experts = experts;
  spec.moe.expert_width = 16;
  spec.moe.router_init_std = 0.5;  // so that tokens differ in where they go
  return spec;
}

std::shared_ptr<LanguageModel> model_of(int64_t experts = kExperts) {
  return make_model(spec_of(experts), RandomStream(5));
}

std::map<std::string, at::Tensor> tensors_of(const LanguageModel& model) {
  const NamedTensors tensors = named_tensors(model);
  return {tensors.begin(), tensors.end()};
}

class Text {
 public:
  Text() : bytes_(testing::tiny_text(600)), tokens_(as_bytes(bytes_), ByteVocabulary::bytes(), "text") {}
  const TokenSequence& tokens() const { return tokens_; }

 private:
  std::string bytes_;
  TokenSequence tokens_;
};

const EvalLengths kLengths{.batch = 2, .segment = 16, .memory = 16};

TEST(KeepExperts, CutsTheRouterAndTheExpertsAndNothingElse) {
  const auto model = model_of();
  const ExpertIds kept = {{0, 2, 5}, {1, 2, 3}};
  const auto slim = keep_experts(*model, kept);
  EXPECT_EQ(slim->spec().moe.experts, 3);
  const auto before = tensors_of(*model);
  for (const auto& [name, tensor] : tensors_of(*slim)) {
    const at::Tensor& whole = before.at(name);
    if (name.find(".moe.") == std::string::npos) {
      EXPECT_TRUE(at::equal(tensor, whole)) << name;
      continue;
    }
    const std::vector<int64_t>& ids = kept[name.starts_with("layers.0.") ? 0 : 1];
    ASSERT_EQ(tensor.size(0), 3) << name;
    for (size_t i = 0; i < ids.size(); ++i) {
      EXPECT_TRUE(at::equal(tensor[static_cast<int64_t>(i)], whole[ids[i]])) << name << " " << i;
    }
    EXPECT_EQ(tensor.requires_grad(), whole.requires_grad()) << name;
  }
}

TEST(KeepExperts, AllOfThemIsTheSameModelToTheBit) {
  const auto model = model_of();
  const auto all = keep_experts(*model, {{0, 1, 2, 3, 4, 5}, {0, 1, 2, 3, 4, 5}});
  const Text text;
  for (const int64_t k : {int64_t{1}, int64_t{3}, kExperts}) {
    EXPECT_EQ(evaluate(*all, text.tokens(), kLengths, k, "text").nll,
              evaluate(*model, text.tokens(), kLengths, k, "text").nll);
  }
}

TEST(KeepExperts, ExpertsThatNobodyChoosesAreNotMissed) {
  const auto model = model_of();
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : tensors_of(*model)) {
    if (!name.ends_with(".router.bias")) continue;
    tensor[1] = -1000;
    tensor[4] = -1000;
  }
  const auto slim = keep_experts(*model, {{0, 2, 3, 5}, {0, 2, 3, 5}});
  const Text text;
  for (const int64_t k : {1, 2, 4}) {
    // A product with fewer columns may round otherwise.
    EXPECT_NEAR(evaluate(*slim, text.tokens(), kLengths, k, "text").nll,
                evaluate(*model, text.tokens(), kLengths, k, "text").nll, 1e-5);
  }
  // And the load finds them.
  EXPECT_EQ(choose_by_load(expert_loads(*model, text.tokens(), kLengths, 4, "text"), 4),
            (ExpertIds{{0, 2, 3, 5}, {0, 2, 3, 5}}));
}

TEST(KeepExperts, OneExpertIsEnough) {
  const auto slim = keep_experts(*model_of(), {{4}, {0}});
  const Text text;
  const EvalResult result = evaluate(*slim, text.tokens(), kLengths, 1, "text");
  EXPECT_TRUE(std::isfinite(result.nll));
  EXPECT_EQ(result.mean_active_experts, 1);
}

TEST(KeepExperts, SharedExpertsStay) {
  ModelSpec spec = spec_of(3);
  spec.moe.shared_experts = 3;  // as many as routed ones, so that only their names tell them apart
  const auto model = make_model(spec, RandomStream(5));
  const auto slim = keep_experts(*model, {{1}, {1}});
  EXPECT_TRUE(
      at::equal(tensors_of(*slim).at("layers.0.moe.shared.w1"), tensors_of(*model).at("layers.0.moe.shared.w1")));
}

TEST(KeepExperts, CutsEveryRouterThatScoresExpertsAndRefusesTheOthers) {
  const Text text;
  for (const RouterKind& kind : router_kinds()) {
    SCOPED_TRACE(kind.name);
    ModelSpec spec = spec_of();
    spec.moe.router = kind.name;
    spec.moe.routers.learned.bias_rate = 0.01;
    const auto model = make_model(spec, RandomStream(5));
    const ExpertIds kept = {{0, 2, 5}, {1, 2, 3}};
    if (!kind.traits.scores || kind.name == "comet") {  // a tree's splits are between experts
      EXPECT_EQ(message_of([&] { keep_experts(*model, kept); }),
                "the router '" + kind.name + "' cannot do with fewer experts: it has no row for each of them to keep");
      const auto all = keep_experts(*model, {{0, 1, 2, 3, 4, 5}, {0, 1, 2, 3, 4, 5}});
      EXPECT_EQ(all->spec().moe.experts, kExperts);
      continue;
    }
    if (kind.name == "moe_pp") {  // the map of the logits below has a row and a column for each expert
      EXPECT_NE(message_of([&] { keep_experts(*model, kept); }).find("below_weight"), std::string::npos);
      continue;
    }
    const auto slim = keep_experts(*model, kept);
    const auto before = tensors_of(*model);
    int cut = 0;
    for (const auto& [name, tensor] : tensors_of(*slim)) {
      if (name.find(".router.") == std::string::npos) continue;
      if (tensor.sizes() == before.at(name).sizes()) continue;  // rmoe's projection knows of no expert
      const std::vector<int64_t>& ids = kept[name.starts_with("layers.0.") ? 0 : 1];
      ASSERT_EQ(tensor.size(0), 3) << name;
      for (size_t i = 0; i < ids.size(); ++i) {
        EXPECT_TRUE(at::equal(tensor[static_cast<int64_t>(i)], before.at(name)[ids[i]])) << name << " " << i;
      }
      ++cut;
    }
    EXPECT_GE(cut, 2);
    const EvalResult result = evaluate(*slim, text.tokens(), kLengths, std::nullopt, "text");
    EXPECT_TRUE(std::isfinite(result.nll));
    const ExpertLoads loads = expert_loads(*model, text.tokens(), kLengths, std::nullopt, "text");
    EXPECT_EQ(choose_by_load(loads, 2).size(), 2u);
  }
}

TEST(KeepExperts, SettingsMustGoWithFewerExperts) {
  ModelSpec spec = spec_of();
  spec.moe.router = "expert_choice";
  const auto model = make_model(spec, RandomStream(5));
  EXPECT_NE(message_of([&] { check_can_keep(*model, 1); }).find("moe.expert_choice.capacity"), std::string::npos);
  check_can_keep(*model, 2);
}

TEST(DefaultK, IsRefusedWhereTheModelHasNoSuchK) {
  const TempFolder folder;
  const ByteVocabulary vocabulary = ByteVocabulary::bytes();
  ModelSpec spec = spec_of();
  const auto refused = [&](int64_t k) {
    return message_of([&] { save_model(folder.path(), *make_model(spec, RandomStream(1)), vocabulary, {}, k); });
  };
  EXPECT_NE(refused(7).find("default_k = 7 is larger than 6"), std::string::npos);
  spec.moe.router = "switch";
  EXPECT_NE(refused(1).find("the router 'switch' has no k"), std::string::npos);
  spec.model.moe_layers.ids.clear();
  EXPECT_NE(refused(1).find("a dense model has no k"), std::string::npos);
}

TEST(KeepExperts, RefusesWhatDoesNotFit) {
  const auto model = model_of();
  const auto refused = [&](const ExpertIds& kept) { return message_of([&] { keep_experts(*model, kept); }); };
  EXPECT_EQ(refused({{0, 1}}), "the model has 2 mixtures, experts to keep are named for 1");
  for (const ExpertIds& kept : {ExpertIds{{}, {}}, ExpertIds{{0, 1}, {0}}}) {
    EXPECT_NE(refused(kept).find("the same number of experts"), std::string::npos);
  }
  for (const ExpertIds& kept :
       {ExpertIds{{1, 0}, {0, 1}}, ExpertIds{{0, 0}, {0, 1}}, ExpertIds{{0, 6}, {0, 1}}, ExpertIds{{-1, 0}, {0, 1}}}) {
    EXPECT_EQ(refused(kept), "experts to keep must be ascending ids between 0 and 5");
  }
  ModelSpec dense = spec_of();
  dense.model.moe_layers.ids.clear();
  EXPECT_THROW(keep_experts(*make_model(dense, RandomStream(1)), {}), UserError);
}

TEST(ChooseByLoad, TakesTheBusiestInOrderOfTheirIds) {
  const ExpertLoads loads = {{0.1, 0.4, 0.2, 0.3}, {0.25, 0.25, 0.25, 0.25}, {0, 0, 0, 1}};
  EXPECT_EQ(choose_by_load(loads, 2), (ExpertIds{{1, 3}, {0, 1}, {0, 3}}));
  EXPECT_EQ(choose_by_load(loads, 4), (ExpertIds{{0, 1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}}));
  EXPECT_THROW(choose_by_load(loads, 0), UserError);
  EXPECT_THROW(choose_by_load(loads, 5), UserError);
}

TEST(ChooseAtRandom, IsASetThatTheSeedDecides) {
  const ExpertIds kept = choose_at_random(40, 8, 3, 1);
  ASSERT_EQ(kept.size(), 40u);
  std::set<std::vector<int64_t>> different(kept.begin(), kept.end());
  std::vector<int> count(8);
  for (const std::vector<int64_t>& ids : kept) {
    ASSERT_EQ(std::set<int64_t>(ids.begin(), ids.end()).size(), 3u);
    EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end()));
    for (const int64_t id : ids) ++count.at(static_cast<size_t>(id));
  }
  EXPECT_GT(different.size(), 15u) << "every mixture has its own choice";
  for (const int n : count) EXPECT_GT(n, 4) << "40 · 3 / 8 = 15 are expected";
  EXPECT_EQ(choose_at_random(40, 8, 3, 1), kept);
  EXPECT_NE(choose_at_random(40, 8, 3, 2), kept);
  EXPECT_EQ(choose_at_random(1, 3, 3, 9), (ExpertIds{{0, 1, 2}}));
  EXPECT_THROW(choose_at_random(1, 3, 0, 9), UserError);
  EXPECT_THROW(choose_at_random(1, 3, 4, 9), UserError);
}

TEST(ExpertLoads, AddUpToOneInEachMixture) {
  const auto model = model_of();
  const Text text;
  const ExpertLoads loads = expert_loads(*model, text.tokens(), kLengths, 2, "text");
  ASSERT_EQ(loads.size(), 2u);
  for (const std::vector<double>& load : loads) {
    ASSERT_EQ(load.size(), static_cast<size_t>(kExperts));
    double sum = 0;
    for (const double share : load) sum += share;
    EXPECT_NEAR(sum, 1, 1e-12);
  }
}

}  // namespace
}  // namespace smoe
