// Promises of the mixture operator that hold bit by bit: a row's result does not depend on the other rows, nor a call's
// on the threads or on how often it was made.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "smoe/kernels/moe_mlp_cpu.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

struct BitsShape {
  int64_t D, H;
};

// Odd and even, and pairs at which MKL cuts a product in another way for few rows than for many on two or more threads.
const BitsShape kShapes[] = {{1, 1},    {3, 5},   {7, 40},    {64, 128}, {27, 391}, {34, 494}, {435, 27},
                             {23, 130}, {13, 17}, {33, 1056}, {100, 31}, {512, 64}, {129, 65}};

/// Rows of `c` in a random order, `count` of them, must give the bits that they have in the whole call.
void expect_rows_keep_their_bits(const NamedBody& each, const MixtureCase& c, const at::Tensor& whole, int64_t count,
                                 std::mt19937_64& random) {
  std::vector<int64_t> order(static_cast<size_t>(c.tokens()));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::shuffle(order.begin(), order.end(), random);
  order.resize(static_cast<size_t>(count));
  const at::Tensor rows = torch::tensor(order, torch::kInt64);
  ASSERT_TRUE(same_bits(each.run(c.select(rows)), whole.index_select(0, rows)))
      << each.name << ", " << count << " rows of " << c.describe();
}

void check_row_bits(at::ScalarType type, int threads, const std::vector<int64_t>& counts) {
  const torch::NoGradGuard no_grad;
  const Threads set(threads);
  std::mt19937_64 random(11);
  for (const BitsShape& shape : kShapes) {
    MixtureCase spread = make_case({.T = 70, .K = 3, .E = 5, .D = shape.D, .H = shape.H}, 1).to(type);
    spread.expert = spread.expert.masked_fill(spread.expert.eq(4), -1);
    const MixtureCase one = make_case({.T = 70, .K = 1, .E = 1, .D = shape.D, .H = shape.H, .b1 = false}, 2).to(type);
    for (const MixtureCase& c : {spread, one}) {
      for (const NamedBody& each : bodies_for(type)) {
        const at::Tensor whole = each.run(c);
        for (const int64_t count : counts) {
          expect_rows_keep_their_bits(each, c, whole, count, random);
          if (::testing::Test::HasFatalFailure()) return;
        }
      }
    }
  }
}

std::vector<int64_t> every_count() {
  std::vector<int64_t> out(70);
  std::iota(out.begin(), out.end(), int64_t{1});
  return out;
}

const std::vector<int64_t> kSomeCounts = {1, 2, 3, 5, 12, 15, 16, 17, 31, 33, 48, 64, 69, 70};

TEST(MoeMlpBits, RowsFp32) {
  check_row_bits(at::kFloat, 2, every_count());
  check_row_bits(at::kFloat, 1, kSomeCounts);
  check_row_bits(at::kFloat, 4, kSomeCounts);
}

TEST(MoeMlpBits, RowsFp64) {
  check_row_bits(at::kDouble, 2, every_count());
  check_row_bits(at::kDouble, 1, kSomeCounts);
  check_row_bits(at::kDouble, 4, kSomeCounts);
}

TEST(MoeMlpBits, RowsBf16) {
  check_row_bits(at::kBFloat16, 2, every_count());
  check_row_bits(at::kBFloat16, 1, kSomeCounts);
  check_row_bits(at::kBFloat16, 4, kSomeCounts);
}

TEST(MoeMlpBits, RowsThroughEveryActivation) {
  const torch::NoGradGuard no_grad;
  std::mt19937_64 random(13);
  for (size_t i = 1; i < activation_names().size(); ++i) {
    for (const int64_t H : {1, 2, 3, 5, 7, 13, 20, 33, 48, 391, 4099}) {
      const MixtureCase c =
          make_case({.T = 70, .K = 2, .E = 3, .D = 8, .H = H, .activation = static_cast<Activation>(i)}, 31);
      for (const NamedBody& each : bodies()) {
        for (const at::ScalarType type : each.types) {
          const MixtureCase typed = c.to(type);
          const at::Tensor whole = each.run(typed);
          for (const int64_t count : {1, 5, 16, 40, 69}) {
            expect_rows_keep_their_bits(each, typed, whole, count, random);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST(MoeMlpBits, RowsOfRandomShapes) {
  const torch::NoGradGuard no_grad;
  std::mt19937_64 random(12);
  for (int i = 0; i < 150; ++i) {
    const int64_t E = 1 + static_cast<int64_t>(random() % 5);
    const MixtureCase c = make_case({.T = 150,
                                     .K = 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(E)),
                                     .E = E,
                                     .D = 1 + static_cast<int64_t>(random() % (i % 3 == 0 ? 400 : 40)),
                                     .H = 1 + static_cast<int64_t>(random() % (i % 3 == 1 ? 600 : 40))},
                                    random() >> 20);
    const Threads set(1 + i % 3);
    for (const NamedBody& each : bodies()) {
      for (const at::ScalarType type : each.types) {
        const MixtureCase typed = c.to(type);
        const at::Tensor whole = each.run(typed);
        for (const int64_t count : {1, 9, 40}) {
          expect_rows_keep_their_bits(each, typed, whole, count, random);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

/// Output and all gradients of one call.
std::vector<at::Tensor> everything(const NamedBody& each, const MixtureCase& c) {
  MixtureCase own = c;
  std::vector<at::Tensor*> inputs = {&own.x,          &own.weight,     &own.weights.w1,
                                     &own.weights.b1, &own.weights.w2, &own.weights.b2};
  for (at::Tensor* input : inputs) *input = input->detach().clone().set_requires_grad(true);
  const at::Tensor y = each.run(own);
  y.square().sum().backward();
  std::vector<at::Tensor> out = {y.detach()};
  for (const at::Tensor* input : inputs) out.push_back(input->grad());
  return out;
}

const char* const kNames[] = {"y", "x", "weight", "w1", "b1", "w2", "b2"};

TEST(MoeMlpBits, RepeatsGiveTheSameBits) {
  for (const NamedBody& each : bodies()) {
    for (const at::ScalarType type : each.types) {
      for (const BitsShape& shape : {BitsShape{24, 48}, BitsShape{37, 391}}) {
        MixtureCase c = make_case({.T = 300, .K = 3, .E = 6, .D = shape.D, .H = shape.H}, 21).to(type);
        c.dropout_p = 0.1;
        c.dropout_key = 5;
        const std::vector<at::Tensor> first = everything(each, c);
        for (int repeat = 0; repeat < 4; ++repeat) {
          const std::vector<at::Tensor> again = everything(each, c);
          for (size_t i = 0; i < first.size(); ++i) {
            EXPECT_TRUE(same_bits(first[i], again[i])) << each.name << " " << type << " " << kNames[i];
          }
        }
      }
    }
  }
}

TEST(MoeMlpBits, ForwardOnOneTwoAndFourThreads) {
  for (const NamedBody& each : bodies()) {
    for (const at::ScalarType type : each.types) {
      for (const BitsShape& shape : kShapes) {
        const MixtureCase c = make_case({.T = 90, .K = 3, .E = 6, .D = shape.D, .H = shape.H}, 22).to(type);
        const auto on = [&](int threads) {
          const Threads set(threads);
          return each.run(c);
        };
        const at::Tensor one = on(1);
        EXPECT_TRUE(same_bits(on(2), one)) << each.name << " " << type << " D " << shape.D << " H " << shape.H;
        EXPECT_TRUE(same_bits(on(4), one)) << each.name << " " << type << " D " << shape.D << " H " << shape.H;
      }
    }
  }
}

ForwardLoad load_of(const MixtureCase& c) {
  const at::Tensor used = c.expert.masked_select(c.expert.ge(0));
  const auto number = [](int64_t n) { return static_cast<double>(n); };
  return {.tokens = number(c.tokens()),
          .rows = number(used.numel()),
          .experts = number(std::get<0>(at::_unique(used)).numel()),
          .D = number(c.x.size(1)),
          .H = number(c.weights.w2.size(2)),
          .w1_rows = number(c.weights.w1.size(1)),
          .bytes = number(c.x.element_size())};
}

// Weights large enough that threads share their columns. Those of the other tests are one thread's.
TEST(MoeMlpBits, ColumnsOfLargeWeightsOnUpToSevenThreads) {
  const NamedBody& cpu = body("moe_mlp");
  std::mt19937_64 random(12);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const Activation activation = type == at::kFloat ? Activation::kRelu : Activation::kSwiglu;
    MixtureCase c = make_case({.T = 170, .K = 3, .E = 5, .D = 768, .H = 1090, .activation = activation}, 24).to(type);
    c.dropout_p = 0.1;
    c.dropout_key = 3;
    c.expert = c.expert.masked_fill(c.expert.eq(1), -1);  // an expert between the others that nobody chose
    c.expert.narrow(0, 0, 140).select(1, 0).fill_(3);     // and one of more than a tile
    const MixtureCase fewer = c.select(torch::arange(70));
    const auto on_one = [&](const MixtureCase& of) {
      const Threads set(1);
      return everything(cpu, of);
    };
    const std::vector<at::Tensor> whole = on_one(c), some = on_one(fewer);
    const at::Tensor reference = body("reference").run(c).to(at::kFloat);
    EXPECT_LT((whole[0].to(at::kFloat) - reference).norm().item<double>(),
              (type == at::kFloat ? 1e-6 : 1e-2) * reference.norm().item<double>());
    for (const int threads : {1, 2, 7}) {
      const Threads set(threads);
      EXPECT_EQ(threads_share_columns(load_of(fewer)), threads > 1) << type;
      EXPECT_EQ(threads_share_columns(load_of(c)), threads == 7) << type;
      const std::vector<at::Tensor> all = everything(cpu, c), few = everything(cpu, fewer);
      for (size_t i = 0; i < all.size(); ++i) {
        EXPECT_TRUE(same_bits(all[i], whole[i]) && same_bits(few[i], some[i])) << kNames[i] << " " << type << threads;
      }
      const torch::NoGradGuard no_grad;
      for (const int64_t count : {1, 2, 7, 32, 70}) {
        MixtureCase plain = c;
        plain.dropout_p = 0;  // its mask goes by the token's place
        expect_rows_keep_their_bits(cpu, plain, cpu.run(plain), count, random);
      }
    }
  }
}

TEST(MoeMlpBits, GradientsOfTheCpuBodyOnOneTwoAndFourThreads) {
  const NamedBody& cpu = body("moe_mlp");
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const BitsShape& shape : kShapes) {
      const MixtureCase c = make_case({.T = 90, .K = 3, .E = 6, .D = shape.D, .H = shape.H}, 23).to(type);
      const auto on = [&](int threads) {
        const Threads set(threads);
        return everything(cpu, c);
      };
      const std::vector<at::Tensor> one = on(1), two = on(2), four = on(4);
      for (size_t i = 0; i < one.size(); ++i) {
        EXPECT_TRUE(same_bits(two[i], one[i]) && same_bits(four[i], one[i]))
            << kNames[i] << " " << type << " D " << shape.D << " H " << shape.H;
      }
    }
  }
}

}  // namespace
}  // namespace smoe
