#include "smoe/tensor/tensor_io.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "smoe/base/error.h"
#include "smoe/tensor/random_stream.h"
#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

TEST(TensorIo, EveryDtypeAndLayoutComesBack) {
  const TempFolder folder;
  NamedTensors tensors;
  for (const at::ScalarType type : {torch::kBool, torch::kByte, torch::kChar, torch::kShort, torch::kInt, torch::kLong,
                                    torch::kHalf, torch::kBFloat16, torch::kFloat, torch::kDouble}) {
    tensors.emplace_back(std::string("type.") + c10::toString(type), torch::arange(-3, 9).view({3, 4}).to(type));
  }
  tensors.emplace_back("empty", torch::zeros({0, 5}));
  tensors.emplace_back("scalar", torch::tensor(2.5));
  tensors.emplace_back("transposed", torch::arange(6.0).view({2, 3}).t());
  save_tensors(folder / "a.safetensors", tensors);
  const NamedTensors read = load_tensors(folder / "a.safetensors");
  ASSERT_EQ(read.size(), tensors.size());
  const std::map<std::string, at::Tensor> by_name(read.begin(), read.end());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(by_name.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(torch::equal(by_name.at(name), tensor)) << name;
  }
}

TEST(TensorIo, AMismatchIsNamedAndNothingIsCopied) {
  const NamedTensors loaded = {{"a", torch::ones({2})}, {"b", torch::ones({3})}};
  const at::Tensor a = torch::zeros({2});
  const auto message = [&](const NamedTensors& targets) {
    return message_of<UserError>([&] { copy_tensors(loaded, targets, "x.safetensors"); });
  };
  EXPECT_EQ(message({{"a", a}, {"c", torch::zeros({3})}}), "x.safetensors: tensor 'c' is missing");
  EXPECT_NE(message({{"a", a}, {"b", torch::zeros({4})}}).find("'b' has shape [3]"), std::string::npos);
  EXPECT_NE(message({{"a", a}, {"b", torch::zeros({3}, torch::kDouble)}}).find("'b' has dtype"), std::string::npos);
  EXPECT_NE(message({{"a", a}}).find("'b' is not part of the model"), std::string::npos);
  EXPECT_EQ(a.sum().item<float>(), 0);
  copy_tensors(loaded, {{"b", torch::zeros({3})}, {"a", a}}, "x.safetensors");
  EXPECT_EQ(a.sum().item<float>(), 2);
}

TEST(TensorIo, ATruncatedFileIsRefused) {
  const TempFolder folder;
  save_tensors(folder / "a", {{"a", torch::ones({100})}});
  std::filesystem::resize_file(folder / "a", std::filesystem::file_size(folder / "a") - 1);
  EXPECT_NE(message_of<UserError>([&] { load_tensors(folder / "a"); }).find((folder / "a").string()),
            std::string::npos);
}

TEST(RandomStream, NamesAndNumbersSplitIt) {
  const RandomStream stream(7);
  EXPECT_EQ(stream.at("a").key(), RandomStream(7).at("a").key());
  EXPECT_NE(stream.at("a").key(), stream.at("b").key());
  EXPECT_NE(stream.at("a").at(1).key(), stream.at("a").at(2).key());
  EXPECT_NE(stream.at("a").key(), RandomStream(8).at("a").key());
}

TEST(RandomStream, NumbersHaveTheirDistributions) {
  const RandomStream stream(7);
  double sum = 0, square = 0;
  const int count = 20000;
  for (uint64_t i = 0; i < count; ++i) {
    const double u = stream.uniform(i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    square += u * u;
  }
  EXPECT_NEAR(sum / count, 0.5, 0.011);  // five standard errors
  EXPECT_NEAR(square / count, 1.0 / 3, 0.011);
  at::Tensor normal = torch::empty({20000}, torch::kDouble);
  stream.fill_normal(normal, 2, 3);
  EXPECT_NEAR(normal.mean().item<double>(), 2, 5 * 3 / std::sqrt(20000.0));
  EXPECT_NEAR(normal.std().item<double>(), 3, 5 * 3 / std::sqrt(40000.0));
  at::Tensor again = torch::empty({20000}, torch::kDouble);
  stream.fill_normal(again, 2, 3);
  EXPECT_TRUE(torch::equal(normal, again));
}

}  // namespace
}  // namespace smoe
