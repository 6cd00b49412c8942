// Gradients against finite differences, which LibTorch's C++ frontend has no check of.
#pragma once

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <cmath>
#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace smoe::testing {

struct GradcheckOptions {
  double step = 1e-6;
  double tolerance = 1e-7;  ///< absolute for gradients below 1, relative above
};

/// An input of the function under test, with a name for messages.
using NamedInput = std::pair<std::string, at::Tensor>;

/// Compares autograd's gradient of Σ v ⊙ f(inputs), v fixed and random, with central differences, element by element,
/// for every input; fp64 only. f reads the very tensors that it is given here, which are perturbed in place. An input
/// whose gradient autograd leaves undefined fails, so an unused one must still get zeros.
inline void gradcheck(const std::function<at::Tensor()>& f, const std::vector<NamedInput>& inputs,
                      const GradcheckOptions& options = {}) {
  for (const auto& [name, input] : inputs) {
    ASSERT_EQ(input.scalar_type(), torch::kFloat64) << name;
    ASSERT_TRUE(input.is_contiguous()) << name;
    input.set_requires_grad(true);
    input.mutable_grad() = at::Tensor();
  }
  const at::Tensor y = f();
  const at::Tensor v = torch::sin(torch::arange(y.numel(), torch::kFloat64) * 1.7 + 0.3).view(y.sizes());
  (y * v).sum().backward();
  const torch::NoGradGuard no_grad;
  for (const auto& [name, input] : inputs) {
    ASSERT_TRUE(input.grad().defined()) << name << " got no gradient";
    const at::Tensor gradient = input.grad().contiguous();
    double* element = input.data_ptr<double>();
    for (int64_t i = 0; i < input.numel(); ++i) {
      const double here = element[i];
      element[i] = here + options.step;
      const double above = (f() * v).sum().item<double>();
      element[i] = here - options.step;
      const double below = (f() * v).sum().item<double>();
      element[i] = here;
      const double want = (above - below) / (2 * options.step), got = gradient.data_ptr<double>()[i];
      ASSERT_NEAR(got, want, options.tolerance * std::max(1.0, std::abs(want)))
          << "the gradient of element " << i << " of " << name << " " << input.sizes();
    }
  }
}

/// Differentiating the gradients of f once more must be refused: a kernel that autograd cannot look into would pass for a
/// constant.
inline void expect_no_second_derivative(const std::function<at::Tensor()>& f, const std::vector<NamedInput>& inputs) {
  std::vector<at::Tensor> leaves;
  for (const auto& [name, input] : inputs) leaves.push_back(input.set_requires_grad(true));
  const std::vector<at::Tensor> gradients = torch::autograd::grad({f().square().sum()}, leaves, {},
                                                                  /*retain_graph=*/true, /*create_graph=*/true);
  for (size_t i = 0; i < inputs.size(); ++i) {
    // With a term of its own there is something to differentiate even where the gradient is a constant.
    std::string message;
    try {
      torch::autograd::grad({gradients[i].sum() + leaves[i].square().sum()}, {leaves[i]}, {}, /*retain_graph=*/true);
    } catch (const std::exception& error) {
      message = error.what();
    }
    EXPECT_NE(message.find("is not implemented"), std::string::npos) << inputs[i].first << ": " << message;
  }
}

}  // namespace smoe::testing
