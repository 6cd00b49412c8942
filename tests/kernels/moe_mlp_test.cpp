// The mixture operator against a naive loop, and its rules for slots, order, NaN and arguments.
#include "smoe/kernels/moe_mlp.h"

#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "smoe/kernels/block_gemm.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

/// |y − want| in units of u · (the sizes of the terms), its largest.
double worst_error(const at::Tensor& y, const Expected& want, double unit) {
  if (y.numel() == 0) return 0;
  const at::Tensor error = (y.to(torch::kFloat64) - want.value).abs() / (want.size * unit + 1e-300);
  return error.isnan().any().item<bool>() ? std::numeric_limits<double>::infinity() : error.max().item<double>();
}

/// Each body against the loop on `count` random cases whose values are exact in `exact_in`.
void compare_with_loop(at::ScalarType x_type, at::ScalarType weights_type, int count, double unit) {
  std::mt19937_64 random(20240501);
  for (int i = 0; i < count; ++i) {
    const MixtureCase c = random_case(random, x_type == at::kDouble ? at::kDouble : x_type);
    const Expected want = naive_mixture(c);
    const MixtureCase typed = c.to(x_type, weights_type);
    for (const NamedBody& each : bodies_for(x_type)) {
      const at::Tensor y = each.run(typed);
      ASSERT_EQ(y.scalar_type(), x_type);
      ASSERT_EQ(y.sizes(), want.value.sizes());
      ASSERT_LT(worst_error(y, want, unit), 1) << each.name << ", case " << i << ": " << c.describe();
    }
  }
}

TEST(MoeMlp, EqualsTheNaiveLoopInFp64) { compare_with_loop(at::kDouble, at::kDouble, 1500, 12 * 0x1p-53); }

TEST(MoeMlp, EqualsTheNaiveLoopInFp32) { compare_with_loop(at::kFloat, at::kFloat, 1500, 12 * 0x1p-24); }

TEST(MoeMlp, EqualsTheNaiveLoopInBf16) { compare_with_loop(at::kBFloat16, at::kBFloat16, 300, 3 * 0x1p-8); }

TEST(MoeMlp, EqualsTheNaiveLoopInBf16WithFp32Weights) { compare_with_loop(at::kBFloat16, at::kFloat, 300, 3 * 0x1p-8); }

TEST(MoeMlp, Bf16RoundsTheCopiesOfFp32Weights) {
  MixtureCase c = make_case({.T = 9, .K = 2, .E = 3, .D = 16, .H = 24}, 1);
  const MixtureCase mixed = c.to(at::kBFloat16, at::kFloat);
  MixtureCase rounded = c.to(at::kBFloat16);
  rounded.weight = mixed.weight;  // the routing's weights are not rounded
  for (const NamedBody& each : bodies_for(at::kBFloat16)) {
    EXPECT_TRUE(same_bits(each.run(mixed), each.run(rounded))) << each.name;
  }
}

TEST(MoeMlp, NoTokensAndNoSlots) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    const MixtureCase c = make_case({.T = 5, .K = 2, .E = 3, .D = 4, .H = 6}, 2).to(type);
    for (const NamedBody& each : bodies_for(type)) {
      MixtureCase no_tokens = c.select(torch::empty({0}, torch::kInt64));
      EXPECT_EQ(each.run(no_tokens).sizes(), at::IntArrayRef({0, 4})) << each.name;
      MixtureCase no_slots = c;
      no_slots.expert = c.expert.narrow(1, 0, 0);
      no_slots.weight = c.weight.narrow(1, 0, 0);
      EXPECT_TRUE(torch::equal(each.run(no_slots), torch::zeros_like(c.x))) << each.name;
      MixtureCase all_empty = c;
      all_empty.expert = torch::full_like(c.expert, -1);
      EXPECT_TRUE(torch::equal(each.run(all_empty), torch::zeros_like(c.x))) << each.name;
    }
  }
}

/// About how far apart two ways to compute the same may be.
double slack_of(at::ScalarType type) { return type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-4 : 5e-2; }

std::vector<at::Tensor*> differentiable_of(MixtureCase& c) {
  return {&c.x, &c.weight, &c.weights.w1, &c.weights.b1, &c.weights.w2, &c.weights.b2};
}

TEST(MoeMlp, ArgumentsNeedNotBeContiguous) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    // Few tokens, and so many that threads own some of them.
    for (const CaseShape& shape :
         {CaseShape{.T = 11, .K = 3, .E = 4, .D = 6, .H = 8}, CaseShape{.T = 60, .K = 2, .E = 3, .D = 32, .H = 48}}) {
      MixtureCase c = make_case(shape, 3).to(type), other = c;
      other.expert = c.expert.t().contiguous().t();
      const std::vector<at::Tensor*> plain = differentiable_of(c), twisted = differentiable_of(other);
      for (size_t i = 0; i < plain.size(); ++i) {
        *twisted[i] = plain[i]->detach().transpose(0, -1).contiguous().transpose(0, -1).set_requires_grad(true);
        *plain[i] = plain[i]->detach().clone().set_requires_grad(true);
      }
      ASSERT_FALSE(other.weights.w1.is_contiguous());
      for (const NamedBody& each : bodies_for(type)) {
        const double slack = slack_of(type);
        const at::Tensor y = each.run(c), from_twisted = each.run(other);
        EXPECT_TRUE(torch::allclose(from_twisted, y, slack, slack)) << each.name << " " << type;
        y.sum().backward();
        from_twisted.sum().backward();
        for (size_t i = 0; i < plain.size(); ++i) {
          EXPECT_TRUE(torch::allclose(twisted[i]->grad(), plain[i]->grad(), slack, 4 * slack))
              << each.name << " " << type << ", gradient " << i;
          plain[i]->mutable_grad().reset();
          twisted[i]->mutable_grad().reset();
        }
      }
    }
  }
}

// Ids are to be distinct within a token; one that is not is counted as often as it stands there, and no other row is read.
TEST(MoeMlp, AnIdThatATokenHasTwiceIsNoOtherToken) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t T : {8, 40, 72}) {
      MixtureCase c = make_case({.T = T, .K = 2, .E = 3, .D = 16, .H = 32}, 14).to(type);
      c.expert = torch::full({T, 2}, -1, torch::kInt64);
      for (int64_t t = 0; t < T; t += 8) {  // rows 0 0 2 3 4 5 6 7 of each eight tokens: as many as they span
        c.expert[t].fill_(1);
        for (int64_t i = 2; i < 8; ++i) c.expert[t + i][0] = 1;
      }
      const at::Tensor want = body("reference").run(c);
      EXPECT_TRUE(torch::allclose(body("moe_mlp").run(c), want, slack_of(type), slack_of(type))) << type << " T " << T;
    }
  }
}

/// Switches oneDNN off and, at the end, back to what it was.
class WithoutOneDnn {
 public:
  WithoutOneDnn() { at::globalContext().setUserEnabledMkldnn(false); }
  ~WithoutOneDnn() { at::globalContext().setUserEnabledMkldnn(before_); }
  WithoutOneDnn(const WithoutOneDnn&) = delete;
  WithoutOneDnn& operator=(const WithoutOneDnn&) = delete;

 private:
  bool before_ = at::globalContext().userEnabledMkldnn();
};

TEST(MoeMlp, WithoutOneDnnThePlainBodyComputes) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const MixtureCase c = make_case({.T = 40, .K = 2, .E = 3, .D = 32, .H = 48}, 15).to(type);
    const at::Tensor before = body("moe_mlp").run(c);
    {
      const WithoutOneDnn without;
      EXPECT_FALSE(has_block_gemm(type));
      EXPECT_TRUE(same_bits(body("moe_mlp").run(c), body("reference").run(c))) << type;
    }
    EXPECT_TRUE(same_bits(body("moe_mlp").run(c), before)) << type;
  }
}

TEST(MoeMlp, SumsInAscendingExpertId) {
  // Every expert gives a constant. In fp32, (1e8 + 1) − 1e8 = 0 but (1e8 − 1e8) + 1 = 1.
  const std::vector<std::pair<std::vector<float>, float>> constants = {{{1e8f, 1.0f, -1e8f}, 0.0f},
                                                                       {{1e8f, -1e8f, 1.0f}, 1.0f}};
  for (const auto& [constant, want] : constants) {
    MixtureCase c;
    c.x = torch::ones({1, 2});
    c.weights = {torch::zeros({3, 2, 2}), {}, torch::zeros({3, 2, 2}), {}};
    c.weights.b2 = torch::tensor(constant).unsqueeze(1).expand({3, 2}).contiguous();
    std::vector<int64_t> ids = {-1, 0, 1, 2, 3};
    do {
      c.expert = torch::tensor(ids, torch::kInt64).unsqueeze(0);
      c.weight = torch::ones({1, 5});
      for (const NamedBody& each : bodies()) {
        ASSERT_EQ(each.run(c)[0][0].item<float>(), want) << each.name << " " << c.expert;
      }
    } while (std::next_permutation(ids.begin(), ids.end()));
  }
}

TEST(MoeMlp, AnIdOfWeightZeroIsComputedAnEmptySlotIsNot) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    MixtureCase c = make_case({.T = 20, .K = 2, .E = 4, .D = 5, .H = 3}, 4).to(type);
    c.weights.w2.select(0, 1).fill_(std::numeric_limits<double>::quiet_NaN());
    c.weight.fill_(0);
    const at::Tensor sees_nan = c.expert.eq(1).any(-1);
    ASSERT_TRUE(sees_nan.any().item<bool>() && !sees_nan.all().item<bool>());
    MixtureCase without = c;
    without.expert = c.expert.masked_fill(c.expert.eq(1), -1);
    MixtureCase weights_of_nan = without;  // what stands beside an empty slot is not read
    weights_of_nan.weight = c.weight.masked_fill(without.expert.eq(-1), std::numeric_limits<double>::quiet_NaN());
    for (const NamedBody& each : bodies_for(type)) {
      EXPECT_TRUE(torch::equal(each.run(c).isnan().all(-1), sees_nan)) << each.name;
      EXPECT_FALSE(each.run(without).isnan().any().item<bool>()) << each.name;
      EXPECT_FALSE(each.run(weights_of_nan).isnan().any().item<bool>()) << each.name;
    }
  }
}

TEST(MoeMlp, ANanRowStaysInItsOwnRow) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const auto& [poison, D, H] :
         {std::tuple(nan, 18, 33), std::tuple(infinity, 18, 33), std::tuple(nan, 16, 32)}) {
      const MixtureCase c = make_case({.T = 21, .K = 2, .E = 3, .D = D, .H = H}, 5).to(type);
      MixtureCase sick = c;
      sick.x = c.x.clone();
      sick.x.select(0, 7).fill_(poison);
      const at::Tensor others = torch::arange(21).masked_select(torch::arange(21).ne(7));
      for (const NamedBody& each : bodies_for(type)) {
        const at::Tensor y = each.run(sick);
        EXPECT_TRUE(y[7].isfinite().logical_not().all().item<bool>()) << each.name;
        EXPECT_TRUE(same_bits(y.index_select(0, others), each.run(c).index_select(0, others))) << each.name;

        MixtureCase with_gradient = sick;
        with_gradient.x = sick.x.detach().requires_grad_();
        each.run(with_gradient).sum().backward();
        EXPECT_TRUE(with_gradient.x.grad().index_select(0, others).isfinite().all().item<bool>()) << each.name;
      }
    }
  }
}

TEST(MoeMlp, DropoutDrawsTheSameMaskInEveryBody) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    MixtureCase c = make_case({.T = 70, .K = 3, .E = 4, .D = 8, .H = 40}, 6, at::kBFloat16);
    c.dropout_p = 0.5;
    c.dropout_key = 99;
    const at::Tensor y = body("reference").run(c);
    for (const NamedBody& each : bodies_for(type)) {
      const auto is_near = [&](const MixtureCase& of) {
        return (each.run(of.to(type)).to(at::kDouble) - y).norm().item<double>() <
               0.1 * slack_of(type) * y.norm().item<double>();
      };
      EXPECT_TRUE(is_near(c)) << each.name << " " << type;
      MixtureCase other = c;
      other.dropout_key = 100;
      EXPECT_FALSE(is_near(other)) << each.name << " " << type;
    }
  }
}

TEST(MoeMlp, TheEnvironmentCanForceABody) {
  const MixtureCase c = make_case({.T = 40, .K = 2, .E = 3, .D = 32, .H = 48}, 7).to(at::kFloat);
  const auto forced = [&](const std::string& name) {
    const ForceKernel force(name);
    return body("moe_mlp").run(c);
  };
  EXPECT_TRUE(same_bits(forced("reference"), body("reference").run(c)));
  EXPECT_TRUE(same_bits(forced("grouped"), body("grouped").run(c)));
  for (const char* any : {"", "auto"}) EXPECT_TRUE(same_bits(forced(any), body("moe_mlp").run(c)));
  for (const char* name : {"referense", "the fast one"}) {
    const std::string message = message_of([&] { forced(name); });
    EXPECT_NE(message.find(std::string("SMOE_KERNEL='") + name + "' is not known; known: auto, reference, grouped"),
              std::string::npos)
        << message;
  }
}

TEST(MoeMlp, ShapesAreKnownWithoutNumbers) {
  MixtureCase c = make_case({.T = 5, .K = 2, .E = 3, .D = 16, .H = 32}, 9);
  const auto meta = [](const at::Tensor& t) { return t.to(torch::kMeta); };
  c.x = meta(c.x).set_requires_grad(true);
  c.weights = {meta(c.weights.w1), meta(c.weights.b1), meta(c.weights.w2), meta(c.weights.b2)};
  c.expert = meta(c.expert);
  c.weight = meta(c.weight);
  for (const char* name : {"moe_mlp", "grouped"}) {
    const at::Tensor y = body(name).run(c);
    EXPECT_EQ(y.sizes(), c.x.sizes()) << name;
    y.sum().backward();
    EXPECT_EQ(c.x.grad().sizes(), c.x.sizes()) << name;
  }
}

TEST(MoeMlp, RefusesWhatDoesNotFitAndSaysTheShapes) {
  const MixtureCase good = make_case({.T = 5, .K = 2, .E = 3, .D = 4, .H = 6}, 8);
  struct Bad {
    std::function<void(MixtureCase&)> spoil;
    std::vector<std::string> says;
  };
  const std::vector<Bad> cases = {
      {[](MixtureCase& c) { c.x = torch::zeros({5, 7}, torch::kFloat64); }, {"x must be [T, D = 4]", "[5, 7]"}},
      {[](MixtureCase& c) { c.x = torch::zeros({5, 4, 1}, torch::kFloat64); }, {"x must be", "[5, 4, 1]"}},
      {[](MixtureCase& c) { c.expert = c.expert.narrow(0, 0, 4); }, {"expert must be [T = 5, K]", "[4, 2]"}},
      {[](MixtureCase& c) { c.expert = c.expert.select(1, 0); }, {"expert must be [T = 5, K]", "[5]"}},
      {[](MixtureCase& c) { c.expert = c.expert.to(torch::kFloat32); }, {"int32 or int64", "Float"}},
      {[](MixtureCase& c) { c.expert = c.expert.to(torch::kInt16); }, {"int32 or int64", "Short"}},
      {[](MixtureCase& c) { c.weight = c.weight.narrow(1, 0, 1); }, {"weight must have the shape", "[5, 2]", "[5, 1]"}},
      {[](MixtureCase& c) { c.weights.w1 = c.weights.w1.narrow(1, 0, 0); },
       {"H and D must be at least 1", "[3, 0, 4]"}},
      {[](MixtureCase& c) {
         c.x = torch::zeros({5, 0}, torch::kFloat64);
         c.weights = {torch::zeros({3, 6, 0}, torch::kFloat64), {}, torch::zeros({3, 0, 6}, torch::kFloat64), {}};
       },
       {"H and D must be at least 1", "[3, 6, 0]"}},
      {[](MixtureCase& c) { c.weight = c.weight.to(torch::kMeta); }, {"on one device", "got cpu and meta"}},
      {[](MixtureCase& c) { c.weights.b2 = c.weights.b2.to(torch::kMeta); }, {"on one device", "got cpu and meta"}},
      {[](MixtureCase& c) { c.weights.w1 = c.weights.w1[0]; }, {"w1 must be [E, H, D]", "[6, 4]", "[3, 4, 6]"}},
      {[](MixtureCase& c) { c.weights.w2 = c.weights.w1; }, {"w2 must be [E, D, H] = [3, 4, 6]", "[3, 6, 4]"}},
      {[](MixtureCase& c) { c.weights.b1 = c.weights.b2; }, {"b1 must be [E, H] = [3, 6]", "[3, 4]"}},
      {[](MixtureCase& c) { c.weights.b2 = c.weights.b1; }, {"b2 must be [E, D] = [3, 4]", "[3, 6]"}},
      {[](MixtureCase& c) { c.dropout_p = 1; }, {"dropout", "[0, 1)"}},
      {[](MixtureCase& c) { c.dropout_p = -0.1; }, {"dropout", "-0.1"}},
      {[](MixtureCase& c) { c.dropout_p = std::nan(""); }, {"dropout", "nan"}},
  };
  for (const Bad& bad : cases) {
    MixtureCase c = good;
    bad.spoil(c);
    const std::string message = message_of([&] { body("moe_mlp").run(c); });
    for (const std::string& part : bad.says) EXPECT_NE(message.find(part), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace smoe
