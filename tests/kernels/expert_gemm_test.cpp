// The operator expert_gemm: every body against a plain loop, its gradients, its promises.
#include "smoe/kernels/expert_gemm.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "smoe/kernels/dispatch.h"
#include "smoe/kernels/expert_gemm_bodies.h"
#include "tests/base/temp_folder.h"
#include "tests/kernels/gradcheck.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

/// The same numbers in every type.
at::Tensor values(at::IntArrayRef shape, uint64_t seed) { return normal_values(shape, seed, at::kBFloat16); }

struct GemmCase {
  at::Tensor rows, offsets, w, bias;
  std::vector<int64_t> sizes;

  GemmCase to(at::ScalarType rows_type, at::ScalarType w_type) const {
    GemmCase out = *this;
    out.rows = rows.to(rows_type);
    out.w = w.to(w_type);
    if (bias.defined()) out.bias = bias.to(w_type);
    return out;
  }
  at::Tensor run() const { return expert_gemm(rows, offsets, w, bias); }
};

/// Groups of the given sizes and `spare` rows of NaN past the last.
GemmCase make_gemm_case(const std::vector<int64_t>& sizes, int64_t spare, int64_t D, int64_t N, bool bias,
                        uint64_t seed) {
  GemmCase c;
  c.sizes = sizes;
  std::vector<int32_t> offsets = {0};
  for (const int64_t size : sizes) offsets.push_back(offsets.back() + static_cast<int32_t>(size));
  c.offsets = torch::tensor(offsets, torch::kInt32);
  const auto E = static_cast<int64_t>(sizes.size());
  c.rows = torch::cat({values({offsets.back(), D}, seed), torch::full({spare, D}, std::nan(""), torch::kFloat64)});
  c.w = values({E, N, D}, seed + 1);
  if (bias) c.bias = values({E, N}, seed + 2);
  return c;
}

/// Values in fp64 and the sizes of their terms.
Expected loop(const GemmCase& c) {
  Expected out{torch::zeros({c.rows.size(0), c.w.size(1)}, torch::kFloat64), {}};
  out.size = torch::zeros_like(out.value);
  int64_t first = 0;
  for (size_t e = 0; e < c.sizes.size(); ++e) {
    const at::Tensor x = c.rows.narrow(0, first, c.sizes[e]), w = c.w[static_cast<int64_t>(e)];
    const at::Tensor b = c.bias.defined() ? c.bias[static_cast<int64_t>(e)] : torch::zeros({1}, torch::kFloat64);
    out.value.narrow(0, first, c.sizes[e]).copy_((x.unsqueeze(1) * w).sum(-1) + b);
    out.size.narrow(0, first, c.sizes[e]).copy_((x.abs().unsqueeze(1) * w.abs()).sum(-1) + b.abs());
    first += c.sizes[e];
  }
  return out;
}

/// Runs f once as the environment asks and once for each kernel that it can be asked for.
void for_each_choice(const std::function<void(const std::string&)>& f) {
  for (const char* kernel : {"", "reference", "grouped"}) {
    const ForceKernel force(kernel);
    SCOPED_TRACE(std::string("SMOE_KERNEL=") + kernel);
    f(kernel);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

const std::vector<std::vector<int64_t>> kSizes = {{},          {0},         {1},        {0, 3, 0, 17, 1},
                                                  {130, 0, 7}, {16, 32, 0}, {0, 0, 300}};

TEST(ExpertGemm, EqualsALoopInEveryBodyAndType) {
  uint64_t seed = 1;
  for (const auto& sizes : kSizes) {
    for (const auto& [D, N] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {5, 3}, {16, 32}, {48, 16}, {34, 70}}) {
      for (const bool bias : {false, true}) {
        const GemmCase c = make_gemm_case(sizes, bias ? 0 : 5, D, N, bias, ++seed);
        const Expected want = loop(c);
        for (const auto& [type, w_type, unit] :
             {std::tuple(at::kDouble, at::kDouble, 0x1p-53), std::tuple(at::kFloat, at::kFloat, 0x1p-24),
              std::tuple(at::kBFloat16, at::kBFloat16, 0x1p-8), std::tuple(at::kBFloat16, at::kFloat, 0x1p-8)}) {
          const GemmCase typed = c.to(type, w_type);
          for_each_choice([&, type = type, unit = unit](const std::string&) {
            const at::Tensor got = typed.run();
            ASSERT_EQ(got.scalar_type(), type);
            ASSERT_EQ(got.sizes(), want.value.sizes());
            const at::Tensor error = (got.to(at::kDouble) - want.value).abs() - 3 * unit * want.size;
            ASSERT_TRUE(error.le(0).all().item<bool>()) << type << " D " << D << " N " << N << " sizes " << sizes;
          });
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(ExpertGemm, TheBodiesAreTheOnesAskedFor) {
  const GemmCase tiled = make_gemm_case({16, 0, 32}, 0, 32, 16, true, 1),
                 ragged = make_gemm_case({3}, 0, 32, 16, true, 1);
  const auto body = [](const GemmCase& c, at::ScalarType type) {
    const GemmCase typed = c.to(type, type);
    return choose_gemm_body(typed.rows, typed.offsets, typed.w);
  };
  for_each_choice([&](const std::string& kernel) {
    const bool grouped = kernel == "grouped";
    EXPECT_EQ(body(tiled, at::kDouble), GemmBody::kPlain);
    EXPECT_EQ(body(tiled, at::kFloat) == GemmBody::kGrouped, grouped);
    EXPECT_EQ(body(tiled, at::kBFloat16) == GemmBody::kGrouped, grouped);
    EXPECT_NE(body(ragged, at::kFloat), GemmBody::kGrouped);
    if (!kernel.empty()) {
      EXPECT_NE(body(ragged, at::kFloat), GemmBody::kBlocks);
    }
  });
}

TEST(ExpertGemm, Gradients) {
  for (const auto& sizes : std::vector<std::vector<int64_t>>{{2, 0, 3}, {0}, {4}, {1, 1}}) {
    for (const bool bias : {false, true}) {
      GemmCase c = make_gemm_case(sizes, 0, 3, 2, bias, 7);
      c.rows = torch::cat({c.rows, torch::ones({2, 3}, torch::kFloat64)});  // past the last group
      std::vector<NamedInput> inputs = {{"rows", c.rows}, {"w", c.w}};
      if (bias) inputs.emplace_back("bias", c.bias);
      gradcheck([&] { return c.run(); }, inputs);
    }
  }
}

TEST(ExpertGemm, GradientsOfEveryBodyAgreeWithFp64) {
  uint64_t seed = 100;
  for (const auto& sizes : kSizes) {
    for (const auto& [D, N] : std::vector<std::pair<int64_t, int64_t>>{{5, 3}, {16, 32}, {34, 270}}) {
      const GemmCase c = make_gemm_case(sizes, 0, D, N, true, ++seed);
      const at::Tensor v = values({c.rows.size(0), N}, seed);
      const auto gradients = [&](const GemmCase& of) {
        GemmCase own = of;
        for (at::Tensor* t : {&own.rows, &own.w, &own.bias}) *t = t->detach().clone().set_requires_grad(true);
        (own.run() * v.to(own.rows.scalar_type())).sum().backward();
        return std::vector<at::Tensor>{own.rows.grad(), own.w.grad(), own.bias.grad()};
      };
      const std::vector<at::Tensor> want = gradients(c);
      for (const auto& [type, w_type, tolerance] :
           {std::tuple(at::kFloat, at::kFloat, 1e-6), std::tuple(at::kBFloat16, at::kFloat, 0.01),
            std::tuple(at::kBFloat16, at::kBFloat16, 0.01)}) {
        const GemmCase typed = c.to(type, w_type);
        for_each_choice([&, tolerance = tolerance](const std::string&) {
          const std::vector<at::Tensor> got = gradients(typed);
          for (size_t i = 0; i < got.size(); ++i) {
            const at::Tensor input = i == 0 ? typed.rows : i == 1 ? typed.w : typed.bias;
            ASSERT_EQ(got[i].scalar_type(), input.scalar_type());
            ASSERT_EQ(got[i].sizes(), input.sizes());
            const double error = (got[i].to(at::kDouble) - want[i]).norm().item<double>();
            ASSERT_LE(error, tolerance * (want[i].norm().item<double>() + 0.1)) << i << ", sizes " << sizes;
          }
        });
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(ExpertGemm, Bf16WeightGradientsAreSummedInFp32) {
  // 300 ones: in bf16 a sum stops at 256.
  const at::Tensor rows = torch::ones({300, 16}, torch::kBFloat16), offsets = torch::tensor({0, 300}, torch::kInt32);
  const at::Tensor w = torch::zeros({1, 16, 16}).requires_grad_(), bias = torch::zeros({1, 16}).requires_grad_();
  expert_gemm(rows, offsets, w, bias).sum().backward();  // an expanded gradient
  EXPECT_TRUE(torch::equal(w.grad(), torch::full({1, 16, 16}, 300.0f)));
  EXPECT_TRUE(torch::equal(bias.grad(), torch::full({1, 16}, 300.0f)));
}

TEST(ExpertGemm, ARowsBitsDependOnThatRowAlone) {
  torch::manual_seed(5);
  for (const auto& [D, N] : std::vector<std::pair<int64_t, int64_t>>{{27, 391}, {64, 128}, {34, 494}, {129, 65}}) {
    for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
      const GemmCase c = make_gemm_case({150, 70}, 0, D, N, true, 3).to(type, type);
      for_each_choice([&, d = D, n = N](const std::string& kernel) {
        // Whole tiles for the grouped body, which only takes those on a CPU.
        for (const int64_t align : {1, 16}) {
          const auto run = [&](const at::Tensor& x, const at::Tensor& ids) {
            const auto [rows, plan] = dispatch(x, ids.view({-1, 1}), 2, align);
            return combine(expert_gemm(rows, plan.offsets, c.w, c.bias), {}, plan);
          };
          const at::Tensor ids = torch::arange(220).ge(150).to(torch::kInt32), whole = run(c.rows, ids);
          for (const int64_t count : {1, 5, 16, 100}) {
            const at::Tensor pick = torch::randperm(220).narrow(0, 0, count);
            for (const int threads : {1, 2}) {
              const Threads set(threads);
              ASSERT_TRUE(
                  same_bits(run(c.rows.index_select(0, pick), ids.index_select(0, pick)), whole.index_select(0, pick)))
                  << kernel << ' ' << type << " D " << d << " N " << n << ", " << count << " rows, align " << align;
            }
          }
        }
      });
      if (HasFatalFailure()) return;
    }
  }
}

TEST(ExpertGemm, GradientsOnOneTwoAndFourThreads) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto on = [&](int threads) {
      const Threads set(threads);
      GemmCase c = make_gemm_case({150, 0, 33}, 4, 34, 300, true, 9).to(type, at::kFloat);
      for (const at::Tensor& t : {c.rows, c.w, c.bias}) t.set_requires_grad(true);
      c.run().nan_to_num().square().sum().backward();
      return std::vector<at::Tensor>{c.rows.grad(), c.w.grad(), c.bias.grad()};
    };
    const auto one = on(1), two = on(2), four = on(4);
    for (size_t i = 0; i < one.size(); ++i) {
      EXPECT_TRUE(same_bits(one[i], two[i]) && same_bits(one[i], four[i])) << type << ' ' << i;
    }
  }
}

TEST(ExpertGemm, AVariantBuiltOfThePartsEqualsTheMixture) {
  std::mt19937_64 random(8);
  for (int i = 0; i < 60; ++i) {
    MixtureCase c = random_case(random);
    c.dropout_p = 0;
    const auto [rows, plan] = dispatch(c.x, c.expert, c.experts());
    const at::Tensor hidden = activate(expert_gemm(rows, plan.offsets, c.weights.w1, c.weights.b1), c.activation);
    const at::Tensor y = combine(expert_gemm(hidden, plan.offsets, c.weights.w2, c.weights.b2), c.weight, plan);
    ASSERT_TRUE(torch::allclose(y, body("moe_mlp").run(c), 1e-11, 1e-11)) << c.describe();
  }
}

TEST(ExpertGemm, RefusesWhatDoesNotFit) {
  const GemmCase good = make_gemm_case({2, 3}, 0, 4, 6, true, 1);
  const auto says = [&](const std::function<void(GemmCase&)>& spoil, const std::string& part) {
    GemmCase c = good;
    spoil(c);
    const std::string message = message_of([&] { c.run(); });
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  says([](GemmCase& c) { c.rows = c.rows.narrow(1, 0, 3); }, "got [5, 3] and [2, 6, 4]");
  says([](GemmCase& c) { c.offsets = c.offsets.to(torch::kInt64); }, "offsets must be int32 [E + 1] = [3], got Long");
  says([](GemmCase& c) { c.offsets = c.offsets.narrow(0, 0, 2); }, "[E + 1] = [3], got Int [2]");
  says([](GemmCase& c) { c.bias = c.bias.narrow(1, 0, 2); }, "bias must be [E, N] = [2, 6], got [2, 2]");
  says([](GemmCase& c) { c.rows = c.rows.to(torch::kHalf); }, "fp32, fp64 or bf16, got Half");
  says([](GemmCase& c) { c.offsets = torch::tensor({0, 4, 9}, torch::kInt32); }, "at most R = 5");
  says([](GemmCase& c) { c.offsets = torch::tensor({0, 4, 2}, torch::kInt32); }, "must ascend");
  says([](GemmCase& c) { c.offsets = torch::tensor({1, 4, 5}, torch::kInt32); }, "must ascend from 0");
}

TEST(ExpertGemm, ShapesAreKnownWithoutNumbers) {
  const auto meta = torch::TensorOptions().device(torch::kMeta);
  const at::Tensor out = expert_gemm(torch::empty({9, 4}, meta), torch::empty({3}, meta.dtype(torch::kInt32)),
                                     torch::empty({2, 6, 4}, meta), {});
  EXPECT_EQ(out.sizes(), at::IntArrayRef({9, 6}));
}

}  // namespace
}  // namespace smoe
