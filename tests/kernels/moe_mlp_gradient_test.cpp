// Gradients of the mixture operator: against finite differences in fp64, and of the other dtypes against fp64.
#include <ATen/ops/_make_dual.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/forward_grad.h>

#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

std::vector<NamedInput> inputs_of(const MixtureCase& c) {
  std::vector<NamedInput> out = {{"x", c.x}, {"weight", c.weight}, {"w1", c.weights.w1}, {"w2", c.weights.w2}};
  if (c.weights.b1.defined()) out.emplace_back("b1", c.weights.b1);
  if (c.weights.b2.defined()) out.emplace_back("b2", c.weights.b2);
  return out;
}

void check_every_body(MixtureCase c, const std::string& what) {
  for (const NamedBody& each : bodies()) {
    SCOPED_TRACE(each.name + ", " + what + ": " + c.describe());
    gradcheck([&] { return each.run(c); }, inputs_of(c));
    if (::testing::Test::HasFatalFailure()) return;
  }
}

TEST(MoeMlpGradient, EveryActivationWithAndWithoutBiasesAndDropout) {
  uint64_t seed = 0;
  for (size_t i = 0; i < activation_names().size(); ++i) {
    const auto activation = static_cast<Activation>(i);
    for (const double p : {0.0, 0.4}) {
      for (const bool bias : {false, true}) {
        MixtureCase c = make_case(
            {.T = 5, .K = 2, .E = 3, .D = 3, .H = 4, .b1 = bias, .b2 = bias, .activation = activation}, ++seed);
        c.dropout_p = p;
        c.dropout_key = seed;
        check_every_body(c, "all inputs");
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(MoeMlpGradient, EveryNumberOfSlotsAndOneBiasOnly) {
  for (int64_t k = 1; k <= 4; ++k) {
    check_every_body(make_case({.T = 4, .K = k, .E = 4, .D = 2, .H = 3, .b1 = k % 2 == 0, .b2 = k % 2 == 1}, 50), "k");
  }
}

TEST(MoeMlpGradient, EmptySlotsEmptyExpertsAndOneThatTakesAll) {
  MixtureCase c = make_case({.T = 6, .K = 3, .E = 4, .D = 3, .H = 2}, 60);
  c.expert = torch::tensor({{-1, 2, 4}, {0, -1, 3}, {-1, -1, -1}, {3, 2, 0}, {4, 4, 2}, {-5, 0, 7}}, torch::kInt32);
  check_every_body(c, "empty slots; expert 1 has no token");
  MixtureCase one = make_case({.T = 19, .K = 1, .E = 3, .D = 2, .H = 2}, 61);
  one.expert.fill_(1);
  check_every_body(one, "expert 1 takes all");
  MixtureCase none = make_case({.T = 3, .K = 2, .E = 3, .D = 2, .H = 2}, 62);
  none.expert.fill_(-1);
  check_every_body(none, "no expert has a token");
  check_every_body(make_case({.T = 0, .K = 2, .E = 3, .D = 2, .H = 2}, 63), "no tokens");
  MixtureCase zero = make_case({.T = 5, .K = 2, .E = 3, .D = 2, .H = 2}, 64);
  zero.weight.select(1, 0).fill_(0);
  check_every_body(zero, "weights of zero");
}

TEST(MoeMlpGradient, AnExpertWithoutTokensGetsZeros) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const NamedBody& each : bodies_for(type)) {
      for (const auto& [tokens, D, H] : {std::tuple(0, 7, 9), std::tuple(30, 7, 9), std::tuple(30, 16, 32)}) {
        MixtureCase c = make_case({.T = tokens, .K = 2, .E = 5, .D = D, .H = H}, 70).to(type);
        c.expert = c.expert.masked_fill(c.expert.eq(3), -1);
        for (const auto& [name, input] : inputs_of(c)) input.set_requires_grad(true);
        each.run(c).sum().backward();
        for (const auto& [name, input] : inputs_of(c)) {
          ASSERT_TRUE(input.grad().defined()) << each.name << " " << name;
          ASSERT_EQ(input.grad().sizes(), input.sizes()) << name;
          EXPECT_TRUE(input.grad().isfinite().all().item<bool>()) << name;
          if (name == "x" || name == "weight") continue;
          EXPECT_TRUE(torch::equal(input.grad()[3], torch::zeros_like(input[3]))) << each.name << " " << name;
          EXPECT_EQ(input.grad()[2].ne(0).any().item<bool>(), tokens > 0) << each.name << " " << name;
        }
        const at::Tensor empty = c.expert.lt(0);
        EXPECT_TRUE(torch::equal(c.weight.grad().masked_select(empty),
                                 torch::zeros_like(c.weight.grad().masked_select(empty))));
      }
    }
  }
}

TEST(MoeMlpGradient, AUnitOfMinusInfinityBeforeReluIsZeroDroppedOrNot) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const NamedBody& each : bodies_for(type)) {
      for (const auto& [D, H] : {std::tuple(7, 33), std::tuple(16, 32)}) {
        MixtureCase c = make_case({.T = 30, .K = 2, .E = 3, .D = D, .H = H}, 71).to(type);
        c.dropout_p = 0.5;
        c.weights.b1.select(1, 5).fill_(-std::numeric_limits<double>::infinity());
        for (const auto& [name, input] : inputs_of(c)) input.set_requires_grad(true);
        each.run(c).sum().backward();
        for (const auto& [name, input] : inputs_of(c)) {
          EXPECT_TRUE(input.grad().isfinite().all().item<bool>()) << each.name << " " << type << " " << name;
        }
        EXPECT_FALSE(c.weights.b1.grad().select(1, 5).any().item<bool>()) << each.name << " " << type;
      }
    }
  }
}

TEST(MoeMlpGradient, OnlyWhatIsAskedForGetsAGradient) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const NamedBody& each : bodies_for(type)) {
      for (const auto& [T, D, H] : {std::tuple(8, 4, 6), std::tuple(70, 32, 80)}) {
        const auto draw = [&, T = T, D = D, H = H] {
          return make_case({.T = T, .K = 2, .E = 3, .D = D, .H = H}, 80).to(type);
        };
        MixtureCase whole = draw();
        const std::vector<NamedInput> all = inputs_of(whole);
        for (const auto& [name, input] : all) input.set_requires_grad(true);
        each.run(whole).sum().backward();
        for (size_t asked = 0; asked < 6; ++asked) {
          MixtureCase c = draw();
          const std::vector<NamedInput> inputs = inputs_of(c);
          inputs[asked].second.set_requires_grad(true);
          each.run(c).sum().backward();
          for (size_t i = 0; i < inputs.size(); ++i) {
            EXPECT_EQ(inputs[i].second.grad().defined(), i == asked) << each.name << " " << inputs[i].first;
          }
          EXPECT_TRUE(same_bits(inputs[asked].second.grad(), all[asked].second.grad()))
              << each.name << " " << type << ", " << all[asked].first << " alone";
        }
        EXPECT_FALSE(each.run(draw()).requires_grad()) << each.name;
      }
    }
  }
}

TEST(MoeMlpGradient, ASecondDerivativeIsRefusedNotWrong) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const NamedBody& each : bodies_for(type)) {
      SCOPED_TRACE(each.name);
      MixtureCase c = make_case({.T = 8, .K = 2, .E = 3, .D = 4, .H = 6}, 82).to(type);
      expect_no_second_derivative([&] { return each.run(c); }, inputs_of(c));
    }
  }
}

TEST(MoeMlpGradient, ThereIsNoneForwards) {
  MixtureCase c = make_case({.T = 4, .K = 2, .E = 3, .D = 5, .H = 6}, 7);
  const uint64_t level = torch::autograd::ForwardADLevel::get_next_idx();
  c.x = at::_make_dual(c.x, torch::ones_like(c.x), static_cast<int64_t>(level));
  EXPECT_NE(message_of<c10::Error>([&] { body("moe_mlp").run(c); }).find("jvp is not implemented"), std::string::npos);
  torch::autograd::ForwardADLevel::release_idx(level);
}

TEST(MoeMlpGradient, TakesAnExpandedIncomingGradient) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const NamedBody& each : bodies_for(type)) {
      MixtureCase c = make_case({.T = 8, .K = 2, .E = 3, .D = 4, .H = 6}, 81).to(type);
      MixtureCase plain = make_case({.T = 8, .K = 2, .E = 3, .D = 4, .H = 6}, 81).to(type);
      c.x.set_requires_grad(true);
      plain.x.set_requires_grad(true);
      each.run(c).sum().backward();                         // the gradient of a sum is an expanded scalar
      each.run(plain).backward(torch::ones({8, 4}, type));  // the same, in memory
      EXPECT_TRUE(torch::equal(c.x.grad(), plain.x.grad())) << each.name << " " << type;
    }
  }
}

/// Experts with rows for several tiles, of a narrow and of a wide layer, and with hidden columns for several chunks.
constexpr CaseShape kLarge[] = {{.T = 700, .K = 1, .E = 2, .D = 20, .H = 70},
                                {.T = 700, .K = 1, .E = 2, .D = 520, .H = 70},
                                {.T = 300, .K = 1, .E = 1, .D = 2100, .H = 300, .activation = Activation::kSwiglu},
                                {.T = 300, .K = 1, .E = 9, .D = 2100, .H = 300},
                                {.T = 1500, .K = 1, .E = 5, .D = 1100, .H = 500}};

TEST(MoeMlpGradient, OtherTypesAgreeWithFp64) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 60; ++i) {
    const MixtureCase c =
        i < std::ssize(kLarge) ? make_case(kLarge[i], 90, at::kBFloat16) : random_case(random, at::kBFloat16);
    std::vector<NamedInput> want = inputs_of(c);
    for (const auto& [name, input] : want) input.set_requires_grad(true);
    const at::Tensor v = torch::sin(torch::arange(c.x.numel(), torch::kFloat64)).view(c.x.sizes());
    (body("reference").run(c) * v).sum().backward();
    for (const auto& [x_type, weights_type, tolerance] :
         {std::tuple(at::kFloat, at::kFloat, 1e-5), std::tuple(at::kBFloat16, at::kFloat, 0.03),
          std::tuple(at::kBFloat16, at::kBFloat16, 0.03)}) {
      for (const NamedBody& each : bodies_for(x_type)) {
        MixtureCase typed = c.to(x_type, weights_type);
        typed.x = typed.x.detach();
        typed.weight = typed.weight.detach();
        for (at::Tensor* w : {&typed.weights.w1, &typed.weights.b1, &typed.weights.w2, &typed.weights.b2}) {
          if (w->defined()) *w = w->detach();
        }
        const std::vector<NamedInput> got = inputs_of(typed);
        for (const auto& [name, input] : got) input.set_requires_grad(true);
        (each.run(typed) * v.to(x_type)).sum().backward();
        for (size_t n = 0; n < got.size(); ++n) {
          const at::Tensor exact = want[n].second.grad();
          ASSERT_EQ(got[n].second.grad().scalar_type(), got[n].second.scalar_type());
          const at::Tensor error = got[n].second.grad().to(torch::kFloat64) - exact;
          // Where terms cancel, what is left is small and its error is not.
          EXPECT_LE(error.norm().item<double>(), tolerance * (exact.norm().item<double>() + 0.1))
              << each.name << " " << x_type << ", gradient of " << got[n].first << ", case " << i << ": "
              << c.describe();
        }
      }
    }
  }
}

}  // namespace
}  // namespace smoe
