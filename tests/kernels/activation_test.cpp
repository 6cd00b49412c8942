#include "smoe/kernels/activation.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "smoe/tensor/random_stream.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

const std::vector<Activation> kAll = {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh, Activation::kSilu};

double formula(double x, Activation activation) {
  switch (activation) {
    case Activation::kRelu: return std::max(x, 0.0);
    case Activation::kGelu: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kSilu: return x / (1 + std::exp(-x));
    default: return NAN;
  }
}

TEST(Activation, NamesComeInTheOrderOfTheEnum) {
  EXPECT_EQ(activation_names(),
            (std::vector<std::string>{"relu", "gelu", "gelu_tanh", "silu", "reglu", "geglu", "geglu_tanh", "swiglu"}));
  for (size_t i = 0; i < activation_names().size(); ++i) {
    EXPECT_EQ(parse_activation(activation_names()[i]), static_cast<Activation>(i));
  }
  EXPECT_NE(message_of([] { parse_activation("rleu"); }).find("did you mean 'relu'?"), std::string::npos);
}

TEST(Activation, EqualsTheFormula) {
  const at::Tensor x = torch::linspace(-6, 6, 2001, torch::kFloat64);
  for (const Activation activation : kAll) {
    const at::Tensor y = activate(x, activation), y32 = activate(x.to(torch::kFloat32), activation);
    for (int64_t i = 0; i < x.numel(); ++i) {
      const double want = formula(x[i].item<double>(), activation);
      ASSERT_NEAR(y[i].item<double>(), want, 1e-14);
      ASSERT_NEAR(y32[i].item<float>(), want, 2e-6);
    }
  }
}

TEST(Activation, GatedOnesMultiplyTheirHalves) {
  const at::Tensor x = torch::linspace(-2, 2, 60, torch::kFloat64).view({5, 12});
  const std::vector<at::Tensor> halves = x.split(6, 1);
  for (size_t i = 0; i < kAll.size(); ++i) {
    const auto gated = static_cast<Activation>(i + kAll.size());
    EXPECT_TRUE(is_gated(gated) && !is_gated(kAll[i]));
    EXPECT_EQ(gate_function(gated), kAll[i]);
    EXPECT_TRUE(torch::allclose(activate(x, gated), activate(halves[0].contiguous(), kAll[i]) * halves[1], 0, 1e-15));
    gradcheck([&] { return activate(x, gated); }, {{"x", x}}, {.tolerance = 1e-8});
    x.set_requires_grad(false);
  }
}

TEST(Activation, Gradients) {
  const at::Tensor x = torch::linspace(-3, 3.1, 70, torch::kFloat64).view({7, 10});
  for (const Activation activation : kAll) {
    gradcheck([&] { return activate(x, activation); }, {{"x", x}}, {.tolerance = 1e-8});
    // The one that autograd takes and the one that kernels call are the same.
    const at::Tensor gradient = torch::cos(x.detach());
    const at::Tensor by_autograd = torch::autograd::grad({activate(x, activation)}, {x}, {gradient})[0];
    EXPECT_TRUE(torch::equal(activate_backward(gradient, x.detach(), activation), by_autograd));
  }
}

TEST(Activation, AnElementsBitsDoNotDependOnItsPlace) {
  const torch::NoGradGuard no_grad;
  at::Tensor values = torch::empty({40}, torch::kFloat64);
  RandomStream(3).fill_normal(values, 0, 1);
  for (const int count : {1, 2, 4}) {
    const Threads threads(count);
    for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
      for (const Activation activation : kAll) {
        for (const int64_t size : {1, 2, 7, 31, 33, 63, 64, 65, 16 * 391, 16 * 1024 + 1, 40000, 100003}) {
          const at::Tensor few = values.narrow(0, 0, size > 1000 ? 3 : 40).to(type);
          for (int64_t v = 0; v < few.size(0); ++v) {
            const at::Tensor y = activate(few[v].expand({size}).contiguous(), activation);
            const at::Tensor alone = activate(few.narrow(0, v, 1), activation);
            ASSERT_TRUE(same_bits(y, alone.expand({size})))
                << activation_names()[static_cast<size_t>(activation)] << " " << type << ", " << size << " elements, "
                << count << " threads";
          }
        }
      }
    }
  }
}

TEST(Activation, ShapesAndStridesDoNotMatter) {
  const at::Tensor x = torch::linspace(-2, 2, 60, torch::kFloat64).view({3, 4, 5});
  for (const Activation activation : kAll) {
    const at::Tensor y = activate(x, activation);
    EXPECT_TRUE(torch::equal(activate(x.transpose(0, 2), activation), y.transpose(0, 2)));
    EXPECT_EQ(activate(torch::empty({0, 3}), activation).sizes(), at::IntArrayRef({0, 3}));
    const at::Tensor nan = activate(torch::full({70}, NAN), activation);
    EXPECT_TRUE(nan.isnan().all().item<bool>());
  }
}

}  // namespace
}  // namespace smoe
