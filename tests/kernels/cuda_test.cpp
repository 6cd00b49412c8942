// The operators on a GPU against the same on a CPU; skipped where there is none.
#include <ATen/Context.h>
#include <gtest/gtest.h>

#include "smoe/kernels/dispatch.h"
#include "smoe/kernels/dropout.h"
#include "smoe/kernels/expert_gemm.h"
#include "smoe/kernels/row_moves.h"
#include "smoe/kernels/row_plan.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

class Cuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "LibTorch sees no GPU";
  }
};

at::Tensor on_gpu(const at::Tensor& t) { return t.defined() ? t.to(at::kCUDA) : t; }

MixtureCase on_gpu(const MixtureCase& c) {
  MixtureCase out = c;
  for (at::Tensor* t :
       {&out.x, &out.expert, &out.weight, &out.weights.w1, &out.weights.b1, &out.weights.w2, &out.weights.b2}) {
    *t = on_gpu(*t);
  }
  return out;
}

/// Output and gradients of a call, on the CPU in fp64; undefined where there is no such input.
std::vector<at::Tensor> everything(const Body& run, const MixtureCase& c) {
  MixtureCase own = c;
  std::vector<at::Tensor*> inputs = {&own.x,          &own.weight,     &own.weights.w1,
                                     &own.weights.b1, &own.weights.w2, &own.weights.b2};
  for (at::Tensor* t : inputs) {
    if (t->defined()) *t = t->detach().clone().set_requires_grad(true);
  }
  const at::Tensor y = run(own);
  const at::Tensor v = torch::sin(torch::arange(y.numel(), torch::kFloat64)).view(y.sizes());
  (y * v.to(y.options())).sum().backward();
  std::vector<at::Tensor> out = {y.detach()};
  for (const at::Tensor* t : inputs) out.push_back(t->defined() ? t->grad() : *t);
  for (at::Tensor& t : out) {
    if (t.defined()) t = t.to(at::kCPU, at::kDouble);
  }
  return out;
}

/// What bf16 may differ by from fp64, relative: y, and gradients, where a unit on the other side of ReLU's kink shows, and
/// in small cases terms that nearly cancel.
double bf16_tolerance(size_t which) { return which == 0 ? 0.03 : 0.1; }

TEST_F(Cuda, TheMixtureAgreesWithTheReferenceInFp64) {
  std::mt19937_64 random(21);
  const char* const names[] = {"y", "x", "weight", "w1", "b1", "w2", "b2"};
  for (int i = 0; i < 300; ++i) {
    const MixtureCase c = random_case(random, at::kBFloat16);
    const std::vector<at::Tensor> want = everything(body("reference").run, c);
    for (const auto& [type, weights_type, tolerance] :
         {std::tuple(at::kDouble, at::kDouble, 1e-10), std::tuple(at::kFloat, at::kFloat, 1e-4),
          std::tuple(at::kBFloat16, at::kFloat, 0.0), std::tuple(at::kBFloat16, at::kBFloat16, 0.0)}) {
      for (const char* name : {"moe_mlp", "grouped"}) {
        const std::vector<at::Tensor> got = everything(body(name).run, on_gpu(c.to(type, weights_type)));
        for (size_t n = 0; n < got.size(); ++n) {
          if (!want[n].defined()) continue;
          const double relative = tolerance > 0 ? tolerance : bf16_tolerance(n);
          ASSERT_LE((got[n] - want[n]).norm().item<double>(), relative * (want[n].norm().item<double>() + 0.1))
              << name << ' ' << type << ' ' << names[n] << ", case " << i << ": " << c.describe();
        }
      }
    }
  }
}

TEST_F(Cuda, LargeGroupsEmptyOnesAndOneThatTakesAll) {
  for (const bool all_in_one : {false, true}) {
    MixtureCase c = make_case({.T = 3000, .K = 2, .E = 8, .D = 256, .H = 512}, 22, at::kBFloat16);
    c.expert = c.expert.masked_fill(c.expert.eq(3), -1);
    if (all_in_one) c.expert.fill_(-1).select(1, 0).fill_(5);
    c.weights.w1 = c.weights.w1 / 16;
    const std::vector<at::Tensor> want = everything(body("moe_mlp").run, c.to(at::kFloat));
    const std::vector<at::Tensor> got = everything(body("moe_mlp").run, on_gpu(c.to(at::kBFloat16, at::kFloat)));
    for (size_t n = 0; n < got.size(); ++n) {
      EXPECT_LE((got[n] - want[n]).norm().item<double>(), bf16_tolerance(n) * want[n].norm().item<double>()) << n;
    }
    EXPECT_EQ(got[3][3].abs().max().item<double>(), 0);  // the gradient of an expert without tokens
  }
}

TEST_F(Cuda, RepeatsGiveTheSameBits) {
  MixtureCase c = make_case({.T = 1000, .K = 4, .E = 16, .D = 128, .H = 256, .activation = Activation::kSwiglu}, 23);
  c.dropout_p = 0.1;
  c.dropout_key = 7;
  const MixtureCase typed = on_gpu(c.to(at::kBFloat16, at::kFloat));
  const std::vector<at::Tensor> first = everything(body("moe_mlp").run, typed);
  for (int repeat = 0; repeat < 5; ++repeat) {
    const std::vector<at::Tensor> again = everything(body("moe_mlp").run, typed);
    for (size_t n = 0; n < first.size(); ++n) EXPECT_TRUE(same_bits(first[n], again[n])) << n;
  }
}

TEST_F(Cuda, ThePartsAreThoseOfACpu) {
  std::mt19937_64 random(24);
  for (int i = 0; i < 100; ++i) {
    const MixtureCase c = random_case(random).to(at::kFloat);
    const auto [rows, plan] = dispatch(c.x, c.expert, c.experts());
    const auto [gpu_rows, gpu_plan] = dispatch(on_gpu(c.x), on_gpu(c.expert), c.experts());
    EXPECT_TRUE(torch::equal(gpu_plan.offsets.cpu(), plan.offsets) && torch::equal(gpu_plan.slot.cpu(), plan.slot) &&
                torch::equal(gpu_plan.place.cpu(), plan.place))
        << c.describe();
    EXPECT_TRUE(same_bits(gpu_rows.cpu(), rows));
    const at::Tensor hidden = expert_gemm(rows, plan.offsets, c.weights.w1, c.weights.b1);
    const at::Tensor gpu_hidden = expert_gemm(gpu_rows, gpu_plan.offsets, on_gpu(c.weights.w1), on_gpu(c.weights.b1));
    EXPECT_TRUE(torch::allclose(gpu_hidden.cpu(), hidden, 1e-4, 1e-4));
    EXPECT_TRUE(torch::allclose(combine(gpu_rows, on_gpu(c.weight), gpu_plan).cpu(), combine(rows, c.weight, plan),
                                1e-5, 1e-5));
  }
}

TEST_F(Cuda, PlansAreThoseOfACpu) {
  std::mt19937_64 random(25);
  for (const int64_t experts : {1, 31, 33, 200, 1024, 1025}) {
    for (const int64_t align : {1, 16}) {
      for (const auto type : {at::kInt, at::kLong}) {
        torch::manual_seed(static_cast<int64_t>(random() % 1000));
        // Some ids are past either end.
        const at::Tensor expert = torch::randint(-2, experts + 2, {1 + static_cast<int64_t>(random() % 900), 3}, type);
        const RowPlan want = make_row_plan(expert, experts, align), got = make_row_plan(on_gpu(expert), experts, align);
        EXPECT_TRUE(torch::equal(got.offsets.cpu(), want.offsets) && torch::equal(got.slot.cpu(), want.slot) &&
                    torch::equal(got.place.cpu(), want.place))
            << experts << " experts, align " << align << ", " << type;
      }
    }
  }
}

TEST_F(Cuda, RowsMayBeginAnywhereInMemory) {
  MixtureCase c = on_gpu(make_case({.T = 50, .K = 2, .E = 4, .D = 64, .H = 32}, 26, at::kBFloat16).to(at::kBFloat16));
  const at::Tensor want = body("moe_mlp").run(c).cpu();
  at::Tensor room = torch::empty({c.x.numel() + 1}, c.x.options());
  room.narrow(0, 1, c.x.numel()).copy_(c.x.reshape({-1}));
  c.x = room.narrow(0, 1, c.x.numel()).view(c.x.sizes());
  EXPECT_TRUE(same_bits(body("moe_mlp").run(c).cpu(), want));
}

TEST_F(Cuda, DropoutDrawsTheMaskOfACpu) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const int64_t count : {1, 5, 1000}) {
      const at::Tensor x = torch::randn({count}).to(type);
      EXPECT_TRUE(same_bits(smoe::dropout(on_gpu(x), 0.3, 5).cpu(), smoe::dropout(x, 0.3, 5))) << type << ' ' << count;
    }
  }
}

}  // namespace
}  // namespace smoe
