#include "smoe/models/model_parts.h"

#include <gtest/gtest.h>

#include <map>

#include "smoe/base/error.h"
#include "smoe/models/model_folder.h"
#include "smoe/moe/router.h"

namespace smoe {
namespace {

std::map<std::string, PartCount> parts_of(const ModelSpec& spec, const RandomStream& random = RandomStream(1)) {
  std::map<std::string, PartCount> parts;
  for (const PartCount& part : count_parts(*make_model(spec, random))) parts[part.part] = part;
  return parts;
}

TEST(ModelParts, ThePublishedModelHasThePublishedCounts) {
  ModelSpec spec;
  spec.vocabulary = 204;
  auto parts = parts_of(spec, RandomStream::without_values());
  ASSERT_EQ(parts.size(), 5u);
  EXPECT_EQ(parts["embedding"].total(), 52224 + 204);
  EXPECT_EQ(parts["attention"].total(), 4 * (393216 + 131072 + 131072) + 512 + 512);
  EXPECT_EQ(parts["router"].frozen, 16448);
  EXPECT_EQ(parts["router"].trainable, 0);
  EXPECT_EQ(parts["experts"].total(), 4 * 4206592);
  EXPECT_EQ(parts["norms"].total(), 4 * (512 + 512));
  int64_t trainable = 0;
  for (const auto& [name, part] : parts) trainable += part.trainable;
  EXPECT_EQ(trainable, 19505356);
}

TEST(ModelParts, EveryParameterHasAPart) {
  ModelSpec spec;
  spec.model = {.layers = 2, .width = 8, .heads = 2, .head_width = 4, .ffn_width = 6};
  spec.model.moe_layers = {.all = false, .ids = {1}};
  spec.moe.experts = 3;
  spec.moe.expert_width = 5;
  spec.moe.shared_experts = 2;
  auto parts = parts_of(spec);
  EXPECT_EQ(parts.count("other"), 0u);
  EXPECT_EQ(parts["shared experts"].total(), 2 * (2 * 8 * 5 + 8 + 5));
  EXPECT_EQ(parts["feed-forward"].total(), 2 * 8 * 6 + 8 + 6);
  EXPECT_EQ(part_of("something.new"), "other");
}

TEST(ModelParts, AModelWithoutValuesHasTheShapesAndCostsOfARealOne) {
  ModelSpec spec;
  spec.model = {.layers = 3, .width = 8, .heads = 2, .head_width = 4, .ffn_width = 6};
  spec.model.moe_layers = {.all = false, .ids = {0, 2}};
  spec.moe.experts = 4;
  spec.moe.expert_width = 5;
  spec.moe.shared_experts = 1;
  spec.moe.activation = "swiglu";
  const auto real = make_model(spec, RandomStream(1)), shapes = make_model(spec, RandomStream::without_values());
  const NamedTensors expected = named_tensors(*real), found = named_tensors(*shapes);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].first, expected[i].first);
    EXPECT_EQ(found[i].second.sizes(), expected[i].second.sizes());
    EXPECT_EQ(found[i].second.requires_grad(), expected[i].second.requires_grad());
    EXPECT_TRUE(found[i].second.is_meta()) << found[i].first;
  }
  const Lengths lengths{.batch = 2, .segment = 4, .memory = 4};
  EXPECT_EQ(shapes->flops_per_token(lengths, 2), real->flops_per_token(lengths, 2));
  EXPECT_EQ(shapes->active_parameters(2), real->active_parameters(2));
  EXPECT_EQ(shapes->pass_memory(lengths, 2, true).kept, real->pass_memory(lengths, 2, true).kept);
}

TEST(ModelParts, EveryRouterHasItsPartWithoutValuesToo) {
  for (const RouterKind& kind : router_kinds()) {
    ModelSpec spec;
    spec.model = {.layers = 1, .width = 8, .heads = 2, .head_width = 4, .ffn_width = 6};
    spec.moe.experts = 4;
    spec.moe.expert_width = 5;
    spec.moe.router = kind.name;
    spec.moe.routers.learned.bias_rate = 0.01;
    auto real = parts_of(spec), shapes = parts_of(spec, RandomStream::without_values());
    EXPECT_EQ(real.count("other"), 0u) << kind.name;
    EXPECT_EQ(shapes["router"].trainable, real["router"].trainable) << kind.name;
    EXPECT_EQ(shapes["router"].frozen, real["router"].frozen) << kind.name;
    EXPECT_EQ(real["router"].trainable > 0, kind.traits.trainable) << kind.name;
    for (const auto& item : make_model(spec, RandomStream::without_values())->named_parameters()) {
      EXPECT_TRUE(item.value().is_meta()) << kind.name << " " << item.key();
    }
  }
}

TEST(ModelParts, AModelTooLargeForAnyMachineCanBeCounted) {
  ModelSpec spec;
  spec.model.width = 16384;
  spec.model.layers = 7;
  spec.moe.experts = 64;
  spec.moe.expert_width = 65536;
  EXPECT_EQ(parts_of(spec, RandomStream::without_values())["experts"].total(),
            int64_t{7} * 64 * (2 * int64_t{16384} * 65536 + 16384 + 65536));
}

}  // namespace
}  // namespace smoe
