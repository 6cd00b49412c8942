// What the CUDA kernels do for each element, run here by loops in their place, against LibTorch's operators on a CPU.
#include "smoe/kernels/row_elements.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "smoe/kernels/dropout.h"
#include "smoe/kernels/expert_gemm_bodies.h"
#include "smoe/kernels/hidden_rows.h"
#include "smoe/kernels/row_moves.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

template <class T>
constexpr at::ScalarType kType = std::is_same_v<T, double>  ? at::kDouble
                                 : std::is_same_v<T, float> ? at::kFloat
                                                            : at::kBFloat16;
template <class T>
constexpr at::ScalarType kWideType = std::is_same_v<T, double> ? at::kDouble : at::kFloat;
/// What results may differ by, relative.
template <class T>
constexpr double kSlack = std::is_same_v<T, double>  ? 1e-6
                          : std::is_same_v<T, float> ? 1e-5
                                                     : 0x1p-7;

template <class T>
T* data(const at::Tensor& t) {
  return t.defined() ? static_cast<T*>(t.mutable_data_ptr()) : nullptr;
}

RowPlanView view(const RowPlan& plan) {
  return {data<int32_t>(plan.offsets),
          data<int32_t>(plan.slot),
          data<int32_t>(plan.place),
          plan.offsets.size(0) - 1,
          plan.tokens(),
          plan.slots(),
          plan.rows()};
}

/// The bias in its own dtype, or, for odd i, as wide as sums; for rows of so many numbers that it is added to.
template <class T>
Biases<T> biases(const at::Tensor& bias, int i, int64_t width) {
  static at::Tensor wide;  // alive until the next call
  wide = bias.to(kWideType<T>);
  const bool whole = width % kSpan<T> == 0;
  return i % 2 == 0 ? Biases<T>{data<T>(bias), nullptr, whole} : Biases<T>{nullptr, data<Wide<T>>(wide), whole};
}

template <class T>
at::Tensor normal(at::IntArrayRef shape) {
  return torch::randn(shape, torch::kFloat64).to(kType<T>);
}

template <class T>
void expect_near(const at::Tensor& got, const at::Tensor& want, const char* what) {
  EXPECT_TRUE(torch::allclose(got.to(at::kDouble), want.to(at::kDouble), kSlack<T>, kSlack<T>))
      << what << ' ' << kType<T>;
}

RowPlan random_plan(std::mt19937_64& random) {
  const MixtureCase c = random_case(random);
  return make_row_plan(c.expert, c.experts(), random() % 2 == 0 ? 1 : 8);
}

template <class T>
class RowElements : public ::testing::Test {
 protected:
  RowElements() { torch::manual_seed(3); }
  std::mt19937_64 random_{17};
};
using Types = ::testing::Types<float, double, Bf16>;
TYPED_TEST_SUITE(RowElements, Types);

TYPED_TEST(RowElements, FindTheExpertOfARow) {
  for (int i = 0; i < 50; ++i) {
    const RowPlan plan = random_plan(this->random_);
    const at::Tensor want = expert_of_rows(plan.offsets, plan.rows());
    for (int64_t row = 0; row < plan.rows(); ++row) {
      ASSERT_EQ(view(plan).expert_of(row), want[row].template item<int64_t>()) << plan.offsets;
    }
  }
}

TYPED_TEST(RowElements, GatherAndCombine) {
  using T = TypeParam;
  for (int i = 0; i < 40; ++i) {
    const RowPlan plan = random_plan(this->random_);
    const int64_t D = 1 + i % 17, E = plan.offsets.size(0) - 1;
    const at::Tensor x = normal<T>({plan.tokens(), D}), rows = normal<T>({plan.rows(), D}), bias = normal<T>({E, D});
    const at::Tensor weight = normal<Wide<T>>({plan.tokens(), plan.slots()});
    const at::Tensor gathered = torch::empty_like(rows);
    for (int64_t n = 0; n < rows.numel(); ++n) {
      data<T>(gathered)[n] = gathered_element(view(plan), data<T>(x), D, n / D, n % D);
    }
    EXPECT_TRUE(same_bits(gathered, gather_rows(x, plan)));

    for (const bool biased : {false, true}) {
      for (const at::Tensor& w : {at::Tensor(), weight}) {
        at::Tensor whole = rows.to(at::kDouble).clone(), got = torch::empty_like(x);
        if (biased) add_expert_bias(whole, bias.to(at::kDouble), plan.offsets);
        const CombineArguments<T> arguments{.plan = view(plan),
                                            .rows = data<T>(rows),
                                            .bias = biased ? biases<T>(bias, i, D) : Biases<T>{},
                                            .weight = data<Wide<T>>(w),
                                            .width = D,
                                            .whole = D % kSpan<T> == 0,
                                            .out = data<T>(got)};
        for (int64_t t = 0; t < plan.tokens(); ++t) {
          for (int64_t begin = 0; begin < D; begin += kSpan<T>) {
            Span<T> sum = {};
            for (int64_t slot = t * plan.slots(); slot < (t + 1) * plan.slots(); ++slot) {
              combine_span(arguments, combine_slot(arguments, slot), begin, sum);
            }
            store_span(arguments.out + t * D, begin, D, arguments.whole, sum);
          }
        }
        expect_near<T>(got, combine_rows(whole, w, plan), "combine");
      }
    }

    const at::Tensor of_rows = torch::empty_like(rows), of_weight = torch::zeros_like(weight);
    const SpreadArguments<T> arguments{.plan = view(plan),
                                       .gradient = data<T>(x),
                                       .rows = data<T>(rows),
                                       .weight = data<Wide<T>>(weight),
                                       .width = D,
                                       .whole = D % kSpan<T> == 0,
                                       .of_rows = data<T>(of_rows),
                                       .of_weight = data<Wide<T>>(of_weight)};
    for (int64_t row = 0; row < plan.rows(); ++row) {
      Wide<T> dot = 0;
      for (int64_t begin = 0; begin < D; begin += kSpan<T>) dot += spread_span(arguments, row, begin);
      if (view(plan).is_used(row)) data<Wide<T>>(of_weight)[data<int32_t>(plan.slot)[row]] = dot;
    }
    const auto want = combine_rows_backward(x, rows, weight, plan);
    EXPECT_TRUE(same_bits(of_rows, want.first));
    expect_near<T>(of_weight, want.second, "the gradient of the weight");
  }
}

TYPED_TEST(RowElements, HiddenRowsAndTheirGradient) {
  using T = TypeParam;
  for (int i = 0; i < 48; ++i) {
    const RowPlan plan = random_plan(this->random_);
    const auto activation = static_cast<Activation>(i % 8);
    const int64_t units = 1 + i % 17, E = plan.offsets.size(0) - 1, R = plan.rows(), D = 3;
    const int64_t N = is_gated(activation) ? 2 * units : units;
    const MlpOptions options{activation, i % 3 == 0 ? 0.0 : 0.3, this->random_()};
    const DropoutRule rule(options.dropout_p, options.dropout_key);
    SCOPED_TRACE(activation_names()[static_cast<size_t>(i % 8)]);
    const auto used = [&](const at::Tensor& t) { return t.narrow(0, 0, plan.offsets[E].item<int64_t>()); };

    const at::Tensor product = normal<T>({R, N});
    at::Tensor pre = product.clone(), want_pre = product.clone();
    const at::Tensor bias = i % 2 == 0 ? at::Tensor() : normal<T>({E, N}),
                     after = torch::empty({R, units}, pre.options());
    HiddenArguments<T> arguments{};
    arguments.plan = view(plan);
    arguments.units = units;
    arguments.function = static_cast<GateFunction>(gate_function(activation));
    arguments.gated = is_gated(activation);
    arguments.whole = units % kSpan<T> == 0;
    arguments.keep_pre = true;
    arguments.key = rule.key;
    arguments.drop_below = rule.drop_below;
    arguments.kept_scale = rule.scale;
    if (bias.defined()) arguments.bias = biases<T>(bias, i / 2, units);
    arguments.pre = data<T>(pre);
    arguments.after = data<T>(after);
    for (int64_t row = 0; row < R; ++row) {
      const int64_t expert = view(plan).expert_of(row);
      for (int64_t begin = 0; begin < units; begin += kSpan<T>) hidden_span(arguments, row, expert, begin);
    }
    const at::Tensor want_after = hidden_rows(want_pre, bias, plan, options);
    EXPECT_TRUE(same_bits(used(pre), used(want_pre)));
    expect_near<T>(used(after), used(want_after), "after");
    EXPECT_TRUE(torch::equal(used(after).eq(0), used(want_after).eq(0)));  // the same are dropped
    HiddenArguments<T> not_kept = arguments;
    const at::Tensor pre_again = product.clone(), after_again = torch::empty_like(after);
    not_kept.keep_pre = false;
    not_kept.pre = data<T>(pre_again);
    not_kept.after = data<T>(after_again);
    for (int64_t row = 0; row < R; ++row) {
      const int64_t expert = view(plan).expert_of(row);
      for (int64_t begin = 0; begin < units; begin += kSpan<T>) hidden_span(not_kept, row, expert, begin);
    }
    EXPECT_TRUE(same_bits(after_again, after) && same_bits(pre_again, product));
    EXPECT_EQ(after.narrow(0, used(after).size(0), R - used(after).size(0)).abs().sum().template item<float>(), 0);

    const at::Tensor weight = normal<Wide<T>>({plan.tokens(), plan.slots()});
    const OutputGradient back{normal<T>({R, D}), normal<T>({R, units}), weight_of_rows(weight, plan), {}};
    const at::Tensor of_pre = torch::empty_like(pre), through = back.through;
    const bool in_place = i / 8 % 2 == 1;  // of what comes through
    const at::Tensor scaled = in_place ? through.clone() : torch::empty_like(after);
    const HiddenGradients want = hidden_rows_backward(want_pre, back, plan, options);
    const at::Tensor dot = torch::empty({R}, back.scale.options());
    arguments.after = data<T>(scaled);
    arguments.through = data<T>(in_place ? scaled : through);
    arguments.scale = data<Wide<T>>(back.scale);
    arguments.of_pre = data<T>(of_pre);
    for (int64_t row = 0; row < R; ++row) {
      data<Wide<T>>(dot)[row] = 0;
      for (int64_t begin = 0; begin < units; begin += kSpan<T>) {
        data<Wide<T>>(dot)[row] += hidden_span_backward(arguments, row, view(plan).expert_of(row), begin);
      }
    }
    expect_near<T>(used(of_pre), used(want.pre), "the gradient of pre");
    expect_near<T>(used(scaled), used(want.after), "after times the weight");
    const at::Tensor for_a_slot = plan.slot.lt(plan.tokens() * plan.slots());
    expect_near<T>(dot.masked_select(for_a_slot), want.dot.masked_select(for_a_slot), "dot");
  }
}

TYPED_TEST(RowElements, ColumnSums) {
  using T = TypeParam;
  for (int i = 0; i < 20; ++i) {
    const RowPlan plan = random_plan(this->random_);
    const int64_t N = 1 + i % 17, E = plan.offsets.size(0) - 1;
    const at::Tensor rows = normal<T>({plan.rows(), N});
    for (const at::Tensor& scale : {at::Tensor(), normal<Wide<T>>({plan.rows()})}) {
      const at::Tensor got = torch::zeros({E, N}, torch::TensorOptions(kWideType<T>));
      for (int64_t e = 0; e < E; ++e) {
        for (int64_t line = 0; line < 8; ++line) {
          for (int64_t n = 0; n < N; ++n) {
            const Span<T> sums = column_sums_span(view(plan), data<T>(rows), data<Wide<T>>(scale), N, N % kSpan<T> == 0,
                                                  e, n / kSpan<T> * kSpan<T>, line, 8);
            data<Wide<T>>(got)[e * N + n] += sums.at[n % kSpan<T>];
          }
        }
      }
      const at::Tensor want = expert_bias_gradient(rows, plan.offsets, scale, kWideType<T>, GemmBody::kPlain);
      EXPECT_TRUE(torch::allclose(got, want, 1e-4, 1e-4)) << got << want;
    }
  }
}

TYPED_TEST(RowElements, DropoutOfATensor) {
  using T = TypeParam;
  for (const int64_t count : {0, 1, 3, 4, 5, 130}) {
    for (const double p : {0.25, 1e-12}) {
      const DropoutRule rule(p, 99);
      const at::Tensor x = normal<T>({count}), got = torch::empty_like(x);
      for (int64_t quad = 0; 4 * quad < count; ++quad) {
        dropout_quad(data<T>(x), count, rule.key, rule.drop_below, rule.scale, quad, data<T>(got));
      }
      EXPECT_TRUE(same_bits(got, smoe::dropout(x, p, 99))) << count << ' ' << p;
    }
  }
}

TEST(ElementMath, GateFunctionsAndSlopesAreLibTorchs) {
  const at::Tensor x = torch::cat({torch::linspace(-12, 12, 481, torch::kFloat64), torch::tensor({-1e30, 1e30, -0.0})});
  for (int i = 0; i < 4; ++i) {
    const auto activation = static_cast<Activation>(i);
    const at::Tensor value = activate(x, activation), slope = activate_backward(torch::ones_like(x), x, activation);
    for (int64_t n = 0; n < x.numel(); ++n) {
      const auto got = gate_function_at(static_cast<GateFunction>(i), x[n].item<double>());
      if (std::abs(x[n].item<double>()) > 1e20 && i == 2) continue;  // there the slope is 0 · ∞ in LibTorch too
      EXPECT_NEAR(got.value, value[n].item<double>(), 1e-12 * (1 + std::abs(got.value))) << i << ' ' << x[n];
      EXPECT_NEAR(got.slope, slope[n].item<double>(), 1e-12) << i << ' ' << x[n];
    }
    EXPECT_TRUE(std::isnan(gate_function_at(static_cast<GateFunction>(i), std::nanf("")).value));
  }
}

TEST(ElementMath, Bf16RoundsAsLibTorchDoes) {
  std::mt19937 random(4);
  for (int i = 0; i < 100000; ++i) {
    const uint32_t bits = i < 70000 ? static_cast<uint32_t>(random()) : static_cast<uint32_t>(i - 70000) << 15;
    float x;
    memcpy(&x, &bits, sizeof x);
    const c10::BFloat16 want(x);
    const Bf16 got = narrow<Bf16>(x);
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(widen(got)));
    } else {
      ASSERT_EQ(got.bits, want.x) << bits;
      ASSERT_EQ(widen(got), static_cast<float>(want));
    }
  }
}

}  // namespace
}  // namespace smoe
