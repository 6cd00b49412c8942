#include "smoe/kernels/attention.h"

#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <random>

#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using testing::Threads;

struct Lengths {
  int64_t B, S, M, N, P, window;
  double dropout = 0;
};

std::ostream& operator<<(std::ostream& out, const Lengths& l) {
  return out << "B" << l.B << " S" << l.S << " M" << l.M << " N" << l.N << " P" << l.P << " window " << l.window
             << " dropout " << l.dropout;
}

at::Tensor normal(at::IntArrayRef sizes) { return torch::randn(sizes, torch::kDouble); }

RelativeAttentionInput random_input(const Lengths& l, uint64_t seed) {
  torch::manual_seed(seed);
  const int64_t L = l.M + l.S;
  return {.query = normal({l.B, l.S, l.N, l.P}),
          .key_value = normal({l.B, L, 2, l.N, l.P}),
          .position = normal({L, l.N, l.P}),
          .content_bias = normal({l.N, l.P}),
          .position_bias = normal({l.N, l.P}),
          .window = l.window,
          .dropout = l.dropout,
          .dropout_key = seed};
}

/// The inputs rounded to a dtype, biases to fp32 where that is lower, as leaves on a device that ask for a gradient.
RelativeAttentionInput cast(const RelativeAttentionInput& in, at::ScalarType type, at::Device device = at::kCPU) {
  const auto bias = type == at::kDouble ? at::kDouble : at::kFloat;
  const auto leaf = [&](const at::Tensor& x, at::ScalarType to) {
    return x.detach().to(device, to, /*non_blocking=*/false, /*copy=*/true).requires_grad_();
  };
  RelativeAttentionInput out = in;
  out.query = leaf(in.query, type);
  out.key_value = leaf(in.key_value, type);
  out.position = leaf(in.position, type);
  out.content_bias = leaf(in.content_bias, bias);
  out.position_bias = leaf(in.position_bias, bias);
  return out;
}

using Attention = at::Tensor (*)(const RelativeAttentionInput&);

/// Output, then the gradients of the five inputs.
std::vector<at::Tensor> run(Attention attention, const RelativeAttentionInput& in) {
  const at::Tensor out = attention(in);
  const at::Tensor weight = torch::sin(torch::arange(out.numel(), torch::kDouble) * 1.7).view(out.sizes());
  out.backward(weight.to(out.options()));
  return {out.detach(),       in.query.grad(),        in.key_value.grad(),
          in.position.grad(), in.content_bias.grad(), in.position_bias.grad()};
}

const std::vector<Lengths> kLengths = {
    {1, 1, 0, 1, 1, -1},      {1, 1, 7, 2, 3, -1},         {2, 5, 0, 2, 4, -1},        {2, 33, 31, 1, 8, -1},
    {1, 64, 64, 2, 64, -1},   {1, 70, 129, 1, 65, -1},     {3, 31, 40, 2, 6, 0},       {2, 40, 90, 2, 5, 12},
    {1, 100, 28, 1, 16, 300}, {1, 96, 200, 1, 32, 64},     {2, 37, 30, 3, 7, -1, 0.3}, {1, 50, 60, 2, 130, 20, 0.5},
    {1, 1, 100, 3, 64, -1},   {3, 1, 140, 2, 66, 12, 0.3}, {3, 2, 64, 2, 9, 0},
};

TEST(Attention, GradientsOfTheReference) {
  for (const Lengths& l : std::vector<Lengths>{{1, 1, 0, 1, 1, -1},
                                               {1, 1, 3, 2, 3, -1},
                                               {2, 4, 3, 2, 2, -1},
                                               {1, 5, 2, 1, 3, 2},
                                               {2, 3, 4, 1, 2, -1, 0.4}}) {
    SCOPED_TRACE(::testing::PrintToString(l));
    RelativeAttentionInput in = random_input(l, 5);
    testing::gradcheck([&] { return relative_attention(in); }, {{"query", in.query},
                                                                {"key_value", in.key_value},
                                                                {"position", in.position},
                                                                {"content_bias", in.content_bias},
                                                                {"position_bias", in.position_bias}});
  }
}

TEST(Attention, BlocksHaveNoSecondDerivative) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const RelativeAttentionInput in = cast(random_input({2, 5, 3, 2, 4, -1}, 6), type);
    if (!relative_attention_cpu_takes(in)) GTEST_SKIP() << "no block microkernels here";
    testing::expect_no_second_derivative([&] { return relative_attention(in); }, {{"query", in.query},
                                                                                  {"key_value", in.key_value},
                                                                                  {"position", in.position},
                                                                                  {"content_bias", in.content_bias},
                                                                                  {"position_bias", in.position_bias}});
  }
}

/// What run() gives is about as near to `want`, in fp64, as what the plain body gives in that dtype.
void expect_as_near(const std::vector<at::Tensor>& got, const std::vector<at::Tensor>& plain,
                    const std::vector<at::Tensor>& want, const Lengths& l) {
  const char* names[] = {"out", "query", "key_value", "position", "content_bias", "position_bias"};
  const auto type = plain[0].scalar_type();
  const double slack = type == at::kDouble ? 1e-13 : type == at::kFloat ? 2e-6 : 1e-2;
  for (size_t i = 0; i < want.size(); ++i) {
    const auto error = [&](const at::Tensor& x) {
      // Some gradients are nothing: that of the only key's score, say. The terms of their sums are about 1.
      const double size = std::max(want[i].norm().item<double>(), 0.5 * std::sqrt(want[i].numel()));
      return (x.to(at::kCPU, at::kDouble) - want[i]).norm().item<double>() / size;
    };
    EXPECT_EQ(got[i].scalar_type(), plain[i].scalar_type());
    EXPECT_LT(error(got[i]), 2 * error(plain[i]) + slack)
        << type << ' ' << l << ": " << names[i] << ", the plain body's error is " << error(plain[i]);
  }
}

TEST(Attention, BlocksEqualTheReference) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const Lengths& l : kLengths) {
      const RelativeAttentionInput exact = cast(random_input(l, 3), type), in = cast(exact, type);
      if (!relative_attention_cpu_takes(in)) GTEST_SKIP() << "no block microkernels here";
      const auto want = run(relative_attention_reference, cast(exact, at::kDouble));
      const auto plain = run(relative_attention_reference, cast(exact, type)), got = run(relative_attention_cpu, in);
      expect_as_near(got, plain, want, l);
    }
  }
}

TEST(Attention, OnAGpuEqualsTheReference) {
  if (!at::hasCUDA()) GTEST_SKIP() << "LibTorch sees no GPU";
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const Lengths& l : kLengths) {
      const RelativeAttentionInput exact = cast(random_input(l, 3), type);
      const auto want = run(relative_attention_reference, cast(exact, at::kDouble));
      const auto plain = run(relative_attention_reference, cast(exact, type));
      expect_as_near(run(relative_attention, cast(exact, type, at::kCUDA)), plain, want, l);
    }
  }
}

TEST(Attention, ChoosesABody) {
  const RelativeAttentionInput in = cast(random_input({2, 33, 31, 1, 8, -1}, 3), at::kFloat);
  if (!relative_attention_cpu_takes(in)) GTEST_SKIP() << "no block microkernels here";
  EXPECT_TRUE(torch::equal(relative_attention(in), relative_attention_cpu(in)));
  ASSERT_EQ(::setenv("SMOE_KERNEL", "reference", 1), 0);
  const at::Tensor reference = relative_attention(in);
  ASSERT_EQ(::setenv("SMOE_KERNEL", "referense", 1), 0);
  const std::string message = message_of([&] { relative_attention(in); });
  ::unsetenv("SMOE_KERNEL");
  EXPECT_TRUE(torch::equal(reference, relative_attention_reference(in)));
  EXPECT_NE(message.find("SMOE_KERNEL='referense' is not known"), std::string::npos) << message;
}

void expect_the_same_on_any_number_of_threads(const Lengths& l) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const RelativeAttentionInput exact = random_input(l, 9);
    std::vector<std::vector<at::Tensor>> results;
    for (const int threads : {1, 2, 3, 2}) {
      const Threads use(threads);
      const RelativeAttentionInput in = cast(exact, type);
      if (!relative_attention_cpu_takes(in)) GTEST_SKIP() << "no block microkernels here";
      results.push_back(run(relative_attention_cpu, in));
      for (size_t i = 0; i < results[0].size(); ++i) {
        EXPECT_TRUE(torch::equal(results.back()[i], results[0][i])) << type << ' ' << threads << ' ' << i;
      }
    }
  }
}

TEST(Attention, TheNumberOfThreadsDoesNotShow) {
  expect_the_same_on_any_number_of_threads({3, 50, 60, 3, 12, -1, 0.2});
  expect_the_same_on_any_number_of_threads({3, 1, 60, 3, 12, 20, 0.2});
}

TEST(Attention, QueriesInPartsEqualAllAtOnce) {
  const Lengths l{2, 70, 30, 2, 16, -1};
  for (const int64_t window : {-1, 40}) {
    RelativeAttentionInput whole = random_input(l, 4);
    whole.window = window;
    whole = cast(whole, at::kFloat);
    const torch::NoGradGuard no_grad;
    const at::Tensor want = relative_attention(whole);
    for (const int64_t size : {1, 7, 32, 70}) {
      for (int64_t first = 0; first < l.S; first += size) {
        const int64_t count = std::min(size, l.S - first), length = l.M + first + count;
        RelativeAttentionInput part = whole;
        part.query = whole.query.narrow(1, first, count);
        part.key_value = whole.key_value.narrow(1, 0, length);
        part.position = whole.position.narrow(0, l.M + l.S - length, length);
        EXPECT_TRUE(torch::allclose(relative_attention(part), want.narrow(1, first, count), 1e-5, 1e-6))
            << "window " << window << ", queries " << first << " to " << first + count;
      }
    }
  }
}

TEST(Attention, KeysOfASequenceMayStandInALongerOne) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t S : {20, 1}) {
      const RelativeAttentionInput exact = random_input({3, S, 45, 2, 16, -1}, 8);
      const auto want = run(relative_attention, cast(exact, type));
      RelativeAttentionInput part = cast(exact, type);
      const at::Tensor longer = torch::full({3, 100, 2, 2, 16}, NAN, at::TensorOptions(type));
      longer.narrow(1, 20, 45 + S).copy_(part.key_value.detach());
      part.key_value = longer.narrow(1, 20, 45 + S).detach().requires_grad_();
      const auto got = run(relative_attention, part);
      for (size_t i = 0; i < want.size(); ++i)
        EXPECT_TRUE(torch::equal(got[i], want[i])) << type << ' ' << S << ' ' << i;
    }
  }
}

TEST(Attention, NanStaysInItsSequence) {
  RelativeAttentionInput exact = random_input({3, 40, 20, 2, 8, -1}, 6);
  const auto clean = run(relative_attention, cast(exact, at::kFloat));
  exact.key_value[1][5].fill_(std::nan(""));
  const auto got = run(relative_attention, cast(exact, at::kFloat));
  for (const int64_t b : {0, 2}) {
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(torch::equal(got[i][b], clean[i][b])) << i << ' ' << b;
  }
  EXPECT_TRUE(got[0][1].isnan().all().item<bool>());
}

TEST(Attention, RefusesShapesThatDoNotFit) {
  const RelativeAttentionInput good = random_input({2, 5, 3, 2, 4, -1}, 1);
  const auto message = [&](auto change) {
    RelativeAttentionInput bad = good;
    change(bad);
    return message_of([&] { relative_attention(bad); });
  };
  const auto says = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  EXPECT_TRUE(says(message([](auto& in) { in.query = in.query[0]; }), "query must be [B, S, N, P]"));
  EXPECT_TRUE(says(message([](auto& in) { in.key_value = in.key_value.narrow(1, 0, 4); }), "at least 5"));
  EXPECT_TRUE(says(message([](auto& in) { in.position = in.position.narrow(0, 0, 7); }), "position must be"));
  EXPECT_TRUE(says(message([](auto& in) { in.position_bias = in.position_bias[0]; }), "biases must be"));
  EXPECT_TRUE(says(message([](auto& in) { in.query = in.query.to(torch::kFloat); }), "of one dtype"));
}

TEST(RelativeShift, IsTheIndexFormula) {
  const at::Tensor x = torch::arange(15, torch::kDouble).view({1, 3, 5});
  const at::Tensor y = relative_shift(x);
  const int64_t S = 3, L = 5;
  for (int64_t i = 0; i < S; ++i) {
    for (int64_t j = 0; j <= i + L - S; ++j) {
      EXPECT_EQ(y[0][i][j].item<double>(), x[0][i][j + S - 1 - i].item<double>()) << i << ' ' << j;
    }
  }
}

}  // namespace
}  // namespace smoe
