#include "smoe/models/memory.h"

#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "smoe/base/error.h"
#include "smoe/models/transformer_xl.h"
#include "tests/base/temp_folder.h"
#include "tests/models/fixture_model.h"

namespace smoe {
namespace {

using testing::fixture_model;
using testing::fixture_spec;

constexpr size_t kRowBytes = size_t{6} * sizeof(double);

/// [2, count, 3], kRowBytes for each of the rows.
at::Tensor some_rows(int64_t count, double first) {
  return (torch::arange(2 * count * 3, torch::kDouble) + first).view({2, count, 3});
}

at::Tensor some_tokens(int64_t count) {
  torch::manual_seed(1);
  return torch::randint(7, {2, count}, torch::kLong);
}

Pass pass_of(int64_t memory_length, bool fixed_window = false) {
  return {.k = 2, .memory_length = memory_length, .fixed_window = fixed_window};
}

/// The logits of the tokens, read in segments of those sizes.
at::Tensor read(LanguageModel& model, Memory& memory, const at::Tensor& tokens, const std::vector<int64_t>& sizes,
                const Pass& pass) {
  std::vector<at::Tensor> logits;
  int64_t first = 0;
  for (const int64_t size : sizes) {
    logits.push_back(model.forward(tokens.narrow(1, first, size), memory, pass));
    EXPECT_LE(memory.length(), pass.memory_length);
    first += size;
  }
  EXPECT_EQ(first, tokens.size(1));
  return torch::cat(logits, 1);
}

/// The bytes that a memory holds, room for more rows and all.
double bytes_of(const Memory& memory) {
  double bytes = 0;
  for (const LayerMemory& layer : memory.layers) {
    for (const at::Tensor& held : {layer.inputs, layer.key_value.rows(), layer.positions}) {
      if (held.defined()) bytes += static_cast<double>(held.storage().nbytes());
    }
  }
  return bytes;
}

TEST(GrowingRows, AreTheLastOfWhatWasAdded) {
  GrowingRows rows;
  EXPECT_EQ(rows.size(), 0);
  rows.keep_last(3);
  at::Tensor want = torch::empty({2, 0, 3}, torch::kDouble);
  for (const auto& [added, kept] : std::vector<std::pair<int64_t, int64_t>>{
           {5, 9}, {1, 9}, {1, 9}, {3, 7}, {1, 7}, {1, 7}, {1, 7}, {20, 7}, {0, 7}, {2, 0}, {4, 3}, {1, 30}, {1, 30}}) {
    const at::Tensor fresh = some_rows(added, static_cast<double>(want.sum().item<double>()));
    rows.append(fresh);
    want = torch::cat({want, fresh}, 1);
    EXPECT_TRUE(torch::equal(rows.rows(), want));
    rows.keep_last(kept);
    want = want.narrow(1, std::max<int64_t>(0, want.size(1) - kept), std::min(kept, want.size(1)));
    EXPECT_EQ(rows.size(), want.size(1));
    EXPECT_TRUE(torch::equal(rows.rows(), want));
  }
}

TEST(GrowingRows, SeldomMove) {
  GrowingRows rows;
  rows.append(some_rows(100, 0));
  int moves = 0;
  for (int i = 0; i < 100; ++i) {
    const void* const before = rows.rows().storage().data();
    rows.append(some_rows(1, i));
    rows.keep_last(100);
    if (rows.rows().storage().data() != before) ++moves;
    EXPECT_LE(rows.rows().storage().nbytes(), 126 * kRowBytes);
  }
  EXPECT_LE(moves, 4);
  rows.keep_last(3);
  EXPECT_EQ(rows.rows().storage().nbytes(), 3 * kRowBytes) << "few rows hold no large buffer";
}

TEST(GrowingRows, KeepRoomForAsManyAsCameLast) {
  GrowingRows rows;
  for (int i = 0; i < 5; ++i) {
    rows.append(some_rows(100, i));
    const void* const before = rows.rows().storage().data();
    rows.keep_last(100);
    EXPECT_EQ(rows.rows().storage().data(), before) << "the next hundred would move them again";
    EXPECT_LE(rows.rows().storage().nbytes(), 250 * kRowBytes);
  }
}

TEST(GrowingRows, CopiesDoNotSeeWhatAnotherAdds) {
  GrowingRows first;
  first.append(some_rows(8, 0));
  first.append(some_rows(1, 50));  // has room for another now
  GrowingRows second = first, third = first;
  const at::Tensor before = first.rows().clone(), held = first.rows();
  first.append(some_rows(1, 100));
  second.append(some_rows(1, 200));
  third.keep_last(4);
  third.append(some_rows(1, 300));
  EXPECT_TRUE(torch::equal(held, before));
  EXPECT_TRUE(torch::equal(first.rows(), torch::cat({before, some_rows(1, 100)}, 1)));
  EXPECT_TRUE(torch::equal(second.rows(), torch::cat({before, some_rows(1, 200)}, 1)));
  EXPECT_TRUE(torch::equal(third.rows(), torch::cat({before.narrow(1, 5, 4), some_rows(1, 300)}, 1)));
}

TEST(GrowingRows, RefuseRowsOfAnotherKind) {
  GrowingRows rows;
  rows.append(some_rows(2, 0));
  EXPECT_THROW(rows.append(some_rows(2, 0).to(torch::kFloat)), UserError);
  EXPECT_THROW(rows.append(some_rows(2, 0).narrow(0, 0, 1)), UserError);
  EXPECT_THROW(rows.append(some_rows(2, 0).narrow(2, 0, 2)), UserError);
  EXPECT_EQ(rows.size(), 2);
}

struct MemoryCase {
  const char* name;
  at::ScalarType type;
  Precision precision;
  double tolerance;
};

class KeysAndValues : public ::testing::TestWithParam<MemoryCase> {
 protected:
  /// Of three layers, with a mixture for the first one's projection where asked.
  static std::shared_ptr<LanguageModel> model_of(const std::string& attention = "plain") {
    ModelSpec spec = fixture_spec(false);
    spec.model.layers = 3;
    spec.model.head_width = 5;
    spec.model.init_std = 0.3;
    spec.model.attention = attention;
    spec.model.mixture = {.layers = {.all = false, .ids = {0}}, .experts = 3, .k = 2};
    std::shared_ptr<LanguageModel> model = make_model(spec, RandomStream(4));
    model->to(GetParam().type);
    model->set_precision(GetParam().precision);
    return model;
  }
  static void expect_close(const at::Tensor& a, const at::Tensor& b, const std::string& where) {
    EXPECT_EQ(a.scalar_type(), b.scalar_type()) << where;
    EXPECT_LT((a - b).abs().max().item<double>(), GetParam().tolerance * b.abs().max().item<double>()) << where;
  }
};

TEST_P(KeysAndValues, GiveWhatInputsGive) {
  const torch::NoGradGuard no_grad;
  const at::Tensor tokens = some_tokens(25);
  for (const std::string attention : {"plain", "mixture"}) {
    const auto model = model_of(attention);
    for (const std::vector<int64_t>& sizes :
         std::vector<std::vector<int64_t>>{{25}, {7, 7, 7, 4}, std::vector<int64_t>(25, 1), {12, 1, 1, 2, 9}}) {
      for (const auto& [length, fixed_window] :
           std::vector<std::pair<int64_t, bool>>{{0, false}, {5, true}, {9, false}, {99, true}}) {
        const Pass pass = pass_of(length, fixed_window);
        Memory inputs = model->empty_memory(2), keys = model->empty_memory(2, MemoryOf::kKeysAndValues);
        const at::Tensor want = read(*model, inputs, tokens, sizes, pass);
        const std::string where =
            concat(attention, ", ", sizes.size(), " segments, memory ", length, ", window ", fixed_window);
        expect_close(read(*model, keys, tokens, sizes, pass), want, where);
        EXPECT_EQ(keys.length(), inputs.length()) << where;
        for (const LayerMemory& layer : keys.layers) EXPECT_EQ(layer.length(), keys.length()) << where;
        const int64_t longest = *std::max_element(sizes.begin(), sizes.end());
        if (GetParam().type == torch::kFloat && keys.length() == length) {
          EXPECT_LE(bytes_of(keys),
                    model->memory_bytes({.batch = 2, .segment = longest, .memory = length}, MemoryOf::kKeysAndValues))
              << where;
        }
      }
    }
  }
}

TEST_P(KeysAndValues, OnAGpuGiveWhatInputsGive) {
  if (!at::hasCUDA()) GTEST_SKIP() << "LibTorch sees no GPU";
  const torch::NoGradGuard no_grad;
  const auto model = model_of();
  model->to(at::Device(at::kCUDA));
  const at::Tensor tokens = some_tokens(25).to(at::kCUDA);
  for (const std::vector<int64_t>& sizes : std::vector<std::vector<int64_t>>{{7, 7, 7, 4}, {12, 1, 1, 2, 9}}) {
    Memory inputs = model->empty_memory(2), keys = model->empty_memory(2, MemoryOf::kKeysAndValues);
    const at::Tensor want = read(*model, inputs, tokens, sizes, pass_of(9, true));
    expect_close(read(*model, keys, tokens, sizes, pass_of(9, true)), want, concat(sizes.size(), " segments"));
  }
}

TEST_P(KeysAndValues, CopiesOfAMemoryGoTheirOwnWays) {
  const torch::NoGradGuard no_grad;
  const auto model = model_of();
  const at::Tensor tokens = some_tokens(30), others = (tokens + 1).remainder(7);
  const auto branches = [&](MemoryOf of) {
    Memory first = model->empty_memory(2, of);
    read(*model, first, tokens.narrow(1, 0, 12), {11, 1}, pass_of(16));
    Memory second = first;
    std::vector<at::Tensor> logits;
    for (int64_t t = 12; t < 30; ++t) {  // in turns
      logits.push_back(model->forward(tokens.narrow(1, t, 1), first, pass_of(16)));
      logits.push_back(model->forward(others.narrow(1, t, 1), second, pass_of(16)));
    }
    return torch::cat(logits, 1);
  };
  expect_close(branches(MemoryOf::kKeysAndValues), branches(MemoryOf::kInputs), "");
}

INSTANTIATE_TEST_SUITE_P(Types, KeysAndValues,
                         ::testing::Values(MemoryCase{"fp64", torch::kDouble, Precision::kFull, 1e-11},
                                           MemoryCase{"fp32", torch::kFloat, Precision::kFull, 1e-4},
                                           MemoryCase{"bf16", torch::kFloat, Precision::kBf16, 0.03}),
                         [](const auto& instance) { return std::string(instance.param.name); });

TEST(Memory, KeepsWhatItIsMadeFor) {
  const torch::NoGradGuard no_grad;
  ModelSpec spec = fixture_spec(false);
  spec.model.attention = "mixture";
  spec.model.mixture = {.layers = {.all = false, .ids = {0}}, .experts = 3, .k = 2};
  const auto model = make_model(spec, RandomStream(1));
  Memory inputs = model->empty_memory(2), keys = model->empty_memory(2, MemoryOf::kKeysAndValues);
  EXPECT_EQ(inputs.of(), MemoryOf::kInputs);
  EXPECT_EQ(keys.of(), MemoryOf::kKeysAndValues);
  for (Memory* memory : {&inputs, &keys}) model->forward(some_tokens(5), *memory, pass_of(4));
  EXPECT_EQ(inputs.layers[1].inputs.sizes(), at::IntArrayRef({2, 4, 8}));
  EXPECT_FALSE(inputs.layers[1].positions.defined()) << "the weights may change";
  EXPECT_EQ(keys.layers[0].inputs.sizes(), at::IntArrayRef({2, 4, 8})) << "a mixture projects";
  EXPECT_FALSE(keys.layers[1].inputs.defined());
  EXPECT_EQ(keys.layers[1].key_value.rows().sizes(), at::IntArrayRef({2, 4, 2, 2, 3}));
  EXPECT_EQ(keys.distances(), 9) << "as many as the longest pass will want";
}

TEST(Memory, OfKeysAndValuesRefusesWhatWouldBeWrong) {
  const auto model = fixture_model(false);
  Memory memory = model->empty_memory(2, MemoryOf::kKeysAndValues);
  const auto fault = [&](const Pass& pass, int64_t sequences = 2) {
    return message_of([&] { model->forward(some_tokens(3).narrow(0, 0, sequences), memory, pass); });
  };
  const std::string refusal =
      "a memory of keys and values is for passes without gradients and training: take one of inputs, or an "
      "at::NoGradGuard";
  EXPECT_EQ(fault(pass_of(4)), refusal);
  const torch::NoGradGuard no_grad;
  Pass training = pass_of(4);
  training.training = true;
  EXPECT_EQ(fault(training), refusal);
  EXPECT_EQ(fault(pass_of(4)), "(nothing was thrown)");
  EXPECT_EQ(fault(pass_of(4), 1), "the memory is of 2 sequences, tokens of 1");
  model->set_precision(Precision::kBf16);
  EXPECT_NE(fault(pass_of(4)).find("a memory is of one model and one precision"), std::string::npos);
}

}  // namespace
}  // namespace smoe
