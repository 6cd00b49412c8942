// Corners of tensor files and random streams; the plain cases are in tensor_io_test.cpp.
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cstring>

#include "smoe/base/safetensors.h"
#include "smoe/tensor/random_stream.h"
#include "smoe/tensor/tensor_io.h"
#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

TEST(TensorIo, OddSizesAndStrangeValuesComeBackBitForBit) {
  const TempFolder folder;
  const at::Tensor bits = torch::arange(0, 65536, torch::kInt32).to(torch::kInt16);
  const at::Tensor base = torch::arange(60, torch::kFloat32).view({3, 4, 5});
  const NamedTensors tensors = {
      {"one byte", torch::tensor({7}, torch::kUInt8)},  // everything after it is not aligned
      {"every bf16", bits.view(torch::kBFloat16)},
      {"every fp16", bits.view(torch::kFloat16)},
      {"no rows", torch::empty({0, 3}, torch::kFloat64)},
      {"no columns", torch::empty({3, 0}, torch::kInt64)},
      {"cut", base.narrow(1, 1, 2)},
      {"turned", base.permute({2, 0, 1})},
      {"expanded", torch::tensor({1.5f}).expand({2, 3})},
      {"flipped", base.flip({0})},
      {"nan", torch::full({3}, std::nan("1"), torch::kFloat64)},
  };
  save_tensors(folder / "a", tensors, {{"step", "500"}});
  const NamedTensors read = load_tensors(folder / "a");
  ASSERT_EQ(read.size(), tensors.size());
  const std::map<std::string, at::Tensor> by_name(read.begin(), read.end());
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor want = tensor.contiguous();
    const at::Tensor& got = by_name.at(name);
    ASSERT_EQ(got.sizes(), want.sizes()) << name;
    ASSERT_EQ(got.scalar_type(), want.scalar_type()) << name;
    ASSERT_TRUE(got.is_contiguous());
    ASSERT_TRUE(want.nbytes() == 0 || std::memcmp(got.const_data_ptr(), want.const_data_ptr(), want.nbytes()) == 0)
        << name;
  }
  const MappedFile file(folder / "a");
  EXPECT_EQ(parse_safetensors(file.bytes(), "a").metadata.at("step"), "500");
}

TEST(TensorIo, TheSameTensorsGiveTheSameFile) {
  const TempFolder folder;
  for (const char* name : {"a", "b"})
    save_tensors(folder / name, {{"x", torch::arange(5)}, {"y", torch::ones({2, 2})}});
  EXPECT_EQ(read_file(folder / "a"), read_file(folder / "b"));
}

TEST(TensorIo, WhatTheFormatOrWeLackIsRefusedByName) {
  const TempFolder folder;
  const std::string saving =
      message_of([&] { save_tensors(folder / "a", {{"waves", torch::zeros({2}, torch::kComplexFloat)}}); });
  EXPECT_NE(saving.find("'waves'"), std::string::npos) << saving;
  EXPECT_FALSE(std::filesystem::exists(folder / "a"));
  const std::byte bytes[4] = {};
  write_safetensors(folder / "f8", {{"small", "F8_E4M3", {4}, bytes}}, {});
  const std::string loading = message_of([&] { load_tensors(folder / "f8"); });
  EXPECT_NE(loading.find("f8: tensor 'small' has dtype F8_E4M3"), std::string::npos) << loading;
  EXPECT_THROW(load_tensors(folder / "missing"), UserError);
}

TEST(TensorIo, AFaultInTheLastTensorLeavesTheFirstAlone) {
  const auto targets = [] { return NamedTensors{{"first", torch::zeros({2})}, {"last", torch::zeros({3})}}; };
  const std::pair<NamedTensors, std::string> faults[] = {
      {{{"first", torch::ones({2})}, {"last", torch::ones({3, 1})}}, "[3, 1], the model wants [3]"},
      {{{"first", torch::ones({2})}, {"last", torch::ones({3}, torch::kInt32)}}, "dtype Int, the model wants Float"},
      {{{"first", torch::ones({2})}}, "'last' is missing"},
      {{{"first", torch::ones({2})}, {"lats", torch::ones({3})}}, "'last' is missing"},
      {{{"first", torch::ones({2})}, {"last", torch::ones({3})}, {"frist", torch::ones({1})}},
       "'frist' is not part of the model; did you mean 'first'?"},
  };
  for (const auto& [loaded, part] : faults) {
    const NamedTensors model = targets();
    const std::string message = message_of([&] { copy_tensors(loaded, model, "m.safetensors"); });
    EXPECT_EQ(message.rfind("m.safetensors: ", 0), 0u) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
    for (const auto& [name, target] : model) EXPECT_TRUE(target.eq(0).all().item<bool>()) << name;
  }
}

TEST(TensorIo, CopiesIntoParametersInPlace) {
  at::Tensor parameter = torch::zeros({2, 2}).requires_grad_(), turned = torch::zeros({2, 3}).t();
  const void* place = parameter.const_data_ptr();
  copy_tensors({{"t", torch::arange(6, torch::kFloat32).view({3, 2})}, {"p", torch::ones({2, 2})}},
               {{"p", parameter}, {"t", turned}}, "f");
  EXPECT_EQ(parameter.const_data_ptr(), place);
  EXPECT_TRUE(parameter.is_leaf() && parameter.requires_grad());
  EXPECT_TRUE(parameter.eq(1).all().item<bool>());
  EXPECT_EQ(turned[2][1].item<float>(), 5);
}

TEST(RandomStream, ANumberIsAFunctionOfKeyAndIndex) {
  const RandomStream stream = RandomStream(3).at("sampler");
  std::vector<double> numbers;
  for (uint64_t i = 0; i < 100; ++i) numbers.push_back(stream.uniform(i));
  for (uint64_t i = 100; i-- > 0;) EXPECT_EQ(RandomStream(3).at("sampler").uniform(i), numbers[i]);
  EXPECT_NE(stream.uniform(0), RandomStream(3).at("sampled").uniform(0));
  EXPECT_NE(stream.uniform(0), RandomStream(4).at("sampler").uniform(0));
}

TEST(RandomStream, UniformFillsTheInterval) {
  const RandomStream stream(11);
  std::vector<int> bins(50, 0);
  const int count = 100000;
  for (uint64_t i = 0; i < count; ++i) {
    const double u = stream.uniform(i);
    ASSERT_TRUE(u >= 0 && u < 1);
    ++bins[static_cast<size_t>(u * 50)];
  }
  double chi = 0;
  for (const int bin : bins) chi += (bin - count / 50.0) * (bin - count / 50.0) / (count / 50.0);
  EXPECT_LT(chi, 49 + 5 * std::sqrt(2 * 49.0));
  EXPECT_GT(chi, 49 - 5 * std::sqrt(2 * 49.0));
}

TEST(RandomStream, NormalMomentsInEveryType) {
  for (const auto type : {torch::kFloat32, torch::kFloat64, torch::kBFloat16, torch::kFloat16}) {
    at::Tensor out = torch::empty({40000}, type);
    RandomStream(5).fill_normal(out, -1, 0.5);
    const at::Tensor z = (out.to(torch::kFloat64) + 1) / 0.5;
    EXPECT_NEAR(z.mean().item<double>(), 0, 0.03) << type;
    EXPECT_NEAR(z.square().mean().item<double>(), 1, 0.04) << type;
    EXPECT_NEAR(z.pow(3).mean().item<double>(), 0, 0.12) << type;
    EXPECT_NEAR(z.pow(4).mean().item<double>(), 3, 0.3) << type;
  }
}

TEST(RandomStream, RowsAreFunctionsOfTheirIds) {
  const RandomStream stream(5);
  const at::Tensor ids = torch::tensor(std::vector<int64_t>{4, 0, 4, -1, int64_t{1} << 40});
  const at::Tensor rows = stream.uniform_rows(ids, 7);
  ASSERT_EQ(rows.sizes(), at::IntArrayRef({5, 7}));
  EXPECT_EQ(rows.scalar_type(), torch::kFloat32);
  EXPECT_TRUE(rows.ge(0).logical_and(rows.lt(1)).all().item<bool>());
  EXPECT_TRUE(torch::equal(rows[0], rows[2]));
  EXPECT_FALSE(torch::equal(rows[0], rows[1]));
  EXPECT_TRUE(torch::equal(stream.uniform_rows(ids.narrow(0, 3, 1), 7)[0], rows[3]));
  EXPECT_TRUE(torch::equal(stream.uniform_rows(ids, 3), rows.narrow(1, 0, 3)));
  EXPECT_FALSE(torch::equal(RandomStream(6).uniform_rows(ids, 7), rows));
  EXPECT_EQ(stream.uniform_rows(torch::zeros({0}, torch::kInt64), 7).sizes(), at::IntArrayRef({0, 7}));
  const at::Tensor many = stream.uniform_rows(torch::arange(5000), 5).to(torch::kFloat64);
  EXPECT_NEAR(many.mean().item<double>(), 0.5, 0.008);  // 4 σ
  EXPECT_NEAR(many.square().mean().item<double>(), 1.0 / 3, 0.008);
}

TEST(RandomStream, FillingDoesNotTouchTheGlobalGenerator) {
  torch::manual_seed(1);
  const at::Tensor want = torch::rand({4});
  torch::manual_seed(1);
  at::Tensor out = torch::empty({100}).requires_grad_();
  RandomStream(5).fill_normal(out, 0, 1);
  EXPECT_TRUE(torch::equal(torch::rand({4}), want));
  EXPECT_TRUE(out.is_leaf() && out.requires_grad());
  // Strides do not matter: row-major order counts.
  at::Tensor turned = torch::empty({10, 10}).t();
  RandomStream(5).fill_normal(turned, 0, 1);
  EXPECT_TRUE(torch::equal(turned, out.detach().view({10, 10})));
}

}  // namespace
}  // namespace smoe
