#include "smoe/kernels/packed_weights.h"

#include <gtest/gtest.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>

#include <limits>
#include <tuple>
#include <vector>

#include "smoe/kernels/block_gemm.h"
#include "smoe/kernels/moe_mlp_bodies.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

/// The matrix that a packed expert stands for, read element by element.
at::Tensor unpacked(const at::Tensor& packed, int64_t e, int64_t part, int64_t K, int64_t N) {
  const bool pairs = packed.scalar_type() == at::kBFloat16;
  const at::Tensor blocks = packed[e][part].to(at::kFloat).contiguous();
  at::Tensor out = torch::zeros({K, N});
  for (int64_t k = 0; k < K; ++k) {
    for (int64_t n = 0; n < N; ++n) {
      const int64_t c = n % kPackedColumns;
      const int64_t at = pairs ? k / 2 * 2 * kPackedColumns + 2 * c + k % 2 : k * kPackedColumns + c;
      out[k][n] = blocks[n / kPackedColumns].view({-1})[at];
    }
  }
  return out;
}

TEST(PackedWeights, HoldTheMatricesOfBothProducts) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const auto& [out, in] : std::vector<std::pair<int64_t, int64_t>>{{3, 5}, {64, 16}, {70, 33}}) {
      const at::Tensor w = torch::randn({2, 2 * out, in}), rounded = w.to(type).to(at::kFloat);
      const at::Tensor forward = packed_weights(w, WeightUse::kForward, 2, type);
      const at::Tensor backward = packed_weights(w, WeightUse::kBackward, 1, type);
      for (int64_t part = 0; part < 2; ++part) {
        EXPECT_TRUE(torch::equal(unpacked(forward, 1, part, in, out), rounded[1].narrow(0, part * out, out).t()));
      }
      EXPECT_TRUE(torch::equal(unpacked(backward, 1, 0, 2 * out, in), rounded[1]));
      const at::Tensor turned = w.transpose(1, 2).contiguous().transpose(1, 2);  // other strides, the same numbers
      EXPECT_TRUE(torch::equal(unpacked(packed_weights(turned, WeightUse::kForward, 2, type), 0, 1, in, out),
                               rounded[0].narrow(0, out, out).t()));
    }
  }
}

TEST(PackedWeights, OfATrainingStepAreTheSameForBothPasses) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    // The second and the third are not packed at once: rows of a part that are no whole vectors, strides.
    for (const auto& [out, in, rows] : std::vector<std::tuple<int64_t, int64_t, bool>>{
             {160, 80, true}, {40, 32, true}, {32, 16, false}, {32, 16, true}}) {
      for (const auto own : {at::kFloat, type}) {
        const at::Tensor numbers = torch::randn({3, out, in}).to(own);
        const at::Tensor w = rows ? numbers : numbers.transpose(1, 2).contiguous().transpose(1, 2);
        for (const int64_t parts : {1, 2}) {
          const at::Tensor forward = packed_training_weights(w, parts, type);
          EXPECT_TRUE(packed_weights(w, WeightUse::kForward, parts, type).is_same(forward));
          const at::Tensor backward = packed_weights(w, WeightUse::kBackward, 1, type);
          for (int64_t e = 0; e < 3; ++e) {
            const at::Tensor want = w[e].to(type).to(at::kFloat);
            for (int64_t part = 0; part < parts; ++part) {
              EXPECT_TRUE(torch::equal(unpacked(forward, e, part, in, out / parts),
                                       want.narrow(0, part * (out / parts), out / parts).t()));
            }
            EXPECT_TRUE(torch::equal(unpacked(backward, e, 0, out, in), want));
          }
        }
      }
    }
  }
}

TEST(PackedWeights, OfATrainingStepArePackedOncePerVersion) {
  const at::Tensor w = torch::randn({2, 32, 48});
  const auto forward = [&] { return packed_training_weights(w, 1, at::kBFloat16); };
  const auto backward = [&] { return packed_weights(w, WeightUse::kBackward, 1, at::kBFloat16); };
  const void *const place = forward().const_data_ptr(), *const other = backward().const_data_ptr();
  EXPECT_EQ(forward().const_data_ptr(), place);
  w.add_(1);
  const at::Tensor early = backward();  // there is nothing left to pack for it then
  EXPECT_EQ(early.const_data_ptr(), other);
  EXPECT_EQ(forward().const_data_ptr(), place);
  EXPECT_TRUE(torch::equal(unpacked(forward(), 1, 0, 48, 32), w[1].to(at::kBFloat16).to(at::kFloat).t()));
  EXPECT_TRUE(backward().is_same(early));
  w.mul_(2);
  forward();
  EXPECT_FALSE(backward().is_same(early));  // which is held, so not written over
  EXPECT_TRUE(torch::equal(unpacked(backward(), 1, 0, 32, 48), w[1].to(at::kBFloat16).to(at::kFloat)));
}

TEST(PackedWeights, ArePackedOncePerVersion) {
  const at::Tensor w = torch::randn({2, 4, 6});
  const auto pack = [&] { return packed_weights(w, WeightUse::kForward, 1, at::kFloat); };
  const at::Tensor first = pack();
  EXPECT_TRUE(pack().is_same(first));
  EXPECT_FALSE(packed_weights(w, WeightUse::kBackward, 1, at::kFloat).is_same(first));
  w.add_(1);
  const at::Tensor second = pack();
  EXPECT_FALSE(second.is_same(first));
  EXPECT_TRUE(torch::equal(unpacked(second, 1, 0, 6, 4), w[1].t()));
}

TEST(PackedWeights, AnOldCopyIsWrittenOverWhereNobodyHoldsIt) {
  const at::Tensor w = torch::randn({2, 4, 6});
  const auto pack = [&] { return packed_weights(w, WeightUse::kForward, 1, at::kFloat); };
  const void* const place = pack().const_data_ptr();
  w.add_(1);
  const at::Tensor held = pack(), before = held.clone();
  EXPECT_EQ(held.const_data_ptr(), place);
  w.add_(1);
  EXPECT_TRUE(torch::equal(unpacked(pack(), 1, 0, 6, 4), w[1].t()));
  EXPECT_TRUE(same_bits(held, before));  // what is past a block's columns may be anything
  w.set_data(torch::randn({3, 7, 6}));   // the same tensor with another shape
  EXPECT_TRUE(torch::equal(unpacked(pack(), 2, 0, 6, 7), w[2].t()));
  w.set_data(w.data().view({3, 6, 7}));  // and with its own numbers in another
  EXPECT_TRUE(torch::equal(unpacked(pack(), 2, 0, 7, 6), w[2].t()));
}

TEST(PackedWeights, AnotherTensorAtTheSamePlaceIsAnotherTensor) {
  for (int i = 0; i < 50; ++i) {
    const at::Tensor w = torch::full({1, 2, 2}, i, torch::kFloat);
    EXPECT_EQ(unpacked(packed_weights(w, WeightUse::kForward, 1, at::kFloat), 0, 0, 2, 2)[0][0].item<float>(), i);
  }
}

TEST(PackedWeights, WithoutAVersionNothingIsKept) {
  const c10::InferenceMode inference;
  const at::Tensor w = torch::zeros({1, 2, 2});
  packed_weights(w, WeightUse::kForward, 1, at::kFloat);
  w.add_(3);
  EXPECT_EQ(unpacked(packed_weights(w, WeightUse::kForward, 1, at::kFloat), 0, 0, 2, 2)[1][1].item<float>(), 3);
}

// A write through data() does not move the version: SGD makes such.
TEST(PackedWeights, AnUnseenWriteIsFoundInTheExpertsThatAreRead) {
  const at::Tensor w = torch::randn({3, 4, 6});
  const auto pack = [&](const std::vector<int64_t>& read) {
    return packed_weights(w, WeightUse::kForward, 1, at::kFloat, read);
  };
  const at::Tensor first = pack({0, 1, 2});
  w.data().select(0, 1).mul_(2);
  EXPECT_TRUE(pack({}).is_same(first));
  EXPECT_TRUE(pack({0, 2}).is_same(first));
  const at::Tensor second = pack({1});
  EXPECT_FALSE(second.is_same(first));
  EXPECT_TRUE(torch::equal(unpacked(second, 1, 0, 6, 4), w[1].t()));
  w.data().select(0, 2).fill_(std::numeric_limits<float>::quiet_NaN());
  const at::Tensor third = packed_weights(w, WeightUse::kForward, 1, at::kFloat);
  EXPECT_FALSE(third.is_same(second));
  EXPECT_TRUE(pack({2}).is_same(third));  // NaN is what it was
}

TEST(PackedWeights, AnOptimizersStepIsSeen) {
  MixtureCase c = make_case({.T = 40, .K = 2, .E = 3, .D = 16, .H = 32}, 9).to(at::kFloat);
  for (at::Tensor* w : {&c.weights.w1, &c.weights.w2}) w->set_requires_grad(true);
  torch::optim::SGD optimizer({c.weights.w1, c.weights.w2}, torch::optim::SGDOptions(0.1));
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    const at::Tensor y = body("moe_mlp").run(c);
    EXPECT_TRUE(torch::allclose(y, body("reference").run(c), 1e-4, 1e-4)) << "step " << step;
    y.square().mean().backward();
    optimizer.step();
  }
}

TEST(PackedWeights, AreForgottenWhenAsked) {
  const at::Tensor w = torch::randn({2, 64, 64});
  const at::Tensor first = packed_weights(w, WeightUse::kForward, 1, at::kFloat);
  w.data()[1][33][17] = 5;  // one number past the version counter, which no sample finds
  EXPECT_TRUE(packed_weights(w, WeightUse::kForward, 1, at::kFloat).is_same(first));
  forget_packed_weights();
  EXPECT_TRUE(torch::equal(unpacked(packed_weights(w, WeightUse::kForward, 1, at::kFloat), 1, 0, 64, 64), w[1].t()));
}

TEST(PackedWeights, CopiesOfTensorsThatAreGoneGo) {
  const at::Tensor stays = torch::randn({1, 4, 4});
  std::optional<at::Tensor> goes = torch::randn({1, 4, 4});
  const at::Tensor copy = packed_weights(*goes, WeightUse::kForward, 1, at::kFloat);
  goes.reset();
  for (int i = 0; i < 1000; ++i) packed_weights(stays, WeightUse::kForward, 1, at::kFloat);
  EXPECT_EQ(copy.use_count(), 1);
}

TEST(PackedWeights, TheFastBodyIsTakenWhereThereAreMicrokernels) {
  const MixtureCase c = make_case({.T = 2, .K = 1, .E = 2, .D = 4, .H = 3}, 10);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const MixtureCase typed = c.to(type);
    EXPECT_EQ(moe_mlp_cpu_takes(typed.x, typed.weights, Activation::kRelu), has_block_gemm(type));
  }
  EXPECT_FALSE(moe_mlp_cpu_takes(c.x, c.weights, Activation::kRelu));  // fp64
  const MixtureCase bf16 = c.to(at::kBFloat16);
  EXPECT_FALSE(moe_mlp_cpu_takes(bf16.x, bf16.weights, Activation::kSwiglu));  // an odd H in pairs of rows
}

}  // namespace
}  // namespace smoe
