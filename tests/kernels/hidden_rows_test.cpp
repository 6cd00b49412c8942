// Bias, activation and dropout of rows grouped by expert, and their gradient.
#include "smoe/kernels/hidden_rows.h"

#include <gtest/gtest.h>

#include "smoe/kernels/dropout.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

struct HiddenCase {
  at::Tensor product, bias;  ///< what is added up to pre
  OutputGradient back;
  RowPlan plan;
  MlpOptions options;

  /// The rows up to the end of the last group.
  at::Tensor used(const at::Tensor& t) const { return t.narrow(0, 0, plan.offsets[3].item<int64_t>()); }
};

HiddenCase make_hidden_case(Activation activation, double p, int64_t align, uint64_t seed) {
  const int64_t H = 6, D = 5;
  const MixtureCase c = make_case({.T = 7, .K = 2, .E = 3, .D = is_gated(activation) ? 2 * H : H, .H = 1}, seed);
  c.expert[1][0] = -1;
  HiddenCase out;
  out.plan = make_row_plan(c.expert, 3, align);
  out.options = {activation, p, seed};
  torch::manual_seed(seed);
  const auto normal = [](at::IntArrayRef shape) { return torch::randn(shape, torch::kFloat64); };
  const int64_t R = out.plan.rows();
  out.product = normal({R, c.x.size(1)});
  out.bias = normal({3, c.x.size(1)});
  out.back = {normal({R, D}), normal({R, H}), normal({R}), normal({3, D})};
  return out;
}

/// The same through the functions of single experts, with LibTorch's autograd.
at::Tensor by_expert(const HiddenCase& c, const at::Tensor& pre) {
  std::vector<at::Tensor> out;
  for (int64_t e = 0; e < 3; ++e) {
    const int64_t first = c.plan.offsets[e].item<int64_t>(), size = c.plan.offsets[e + 1].item<int64_t>() - first;
    const at::Tensor token = c.plan.slot.narrow(0, first, size).floor_divide(2).to(torch::kInt64);
    const at::Tensor hidden = activate(pre.narrow(0, first, size), c.options.activation);
    out.push_back(hidden * expert_dropout_mask(token, e, hidden.size(1), c.options.dropout_p, c.options.dropout_key));
  }
  return torch::cat(out);
}

/// The rows of a table [3, ·] that belong to each row.
at::Tensor per_row(const HiddenCase& c, const at::Tensor& table) {
  return table.repeat_interleave(c.plan.offsets.diff().to(torch::kInt64), 0);
}

TEST(HiddenRows, EqualTheFunctionsOfSingleExpertsAndTheirGradients) {
  for (size_t i = 0; i < activation_names().size(); ++i) {
    for (const double p : {0.0, 0.4}) {
      for (const int64_t align : {1, 4}) {
        const HiddenCase c = make_hidden_case(static_cast<Activation>(i), p, align, i + 1);
        SCOPED_TRACE(activation_names()[i]);
        const auto near = [&](const at::Tensor& a, const at::Tensor& b) {
          return torch::allclose(c.used(a), b.detach(), 1e-6, 1e-9);
        };
        at::Tensor pre = c.product.clone();
        const at::Tensor got = hidden_rows(pre, c.bias, c.plan, c.options);
        at::Tensor leaf = (c.used(c.product) + per_row(c, c.bias)).requires_grad_();
        EXPECT_TRUE(near(pre, leaf));
        const at::Tensor want = by_expert(c, leaf);
        EXPECT_TRUE(near(got, want));

        const HiddenGradients gradients = hidden_rows_backward(pre, c.back, c.plan, c.options);
        const at::Tensor scale = c.used(c.back.scale).unsqueeze(1), through = c.used(c.back.through);
        (want * through * scale).sum().backward();
        EXPECT_TRUE(near(gradients.pre, leaf.grad()));
        EXPECT_TRUE(near(gradients.after, want * scale));
        const at::Tensor of_bias = (c.used(c.back.of_rows) * per_row(c, c.back.bias)).sum(1);
        EXPECT_TRUE(near(gradients.dot, (want * through).sum(1) + of_bias));
        OutputGradient some = c.back;
        some.bias = at::Tensor();
        EXPECT_TRUE(near(hidden_rows_backward(pre, some, c.plan, c.options).dot, (want * through).sum(1)));
        some.through = at::Tensor();
        const HiddenGradients after_only = hidden_rows_backward(pre, some, c.plan, c.options);
        EXPECT_FALSE(after_only.pre.defined() || after_only.dot.defined());
        EXPECT_TRUE(torch::equal(c.used(after_only.after), c.used(gradients.after)));
      }
    }
  }
}

TEST(HiddenRows, KeepTheTypeOfTheirInput) {
  const HiddenCase c = make_hidden_case(Activation::kSwiglu, 0.3, 1, 5);
  const auto bf16 = [](const at::Tensor& t) { return t.to(at::kBFloat16); };
  at::Tensor pre = bf16(c.product), exact_pre = pre.to(at::kDouble);
  const at::Tensor exact = hidden_rows(exact_pre, {}, c.plan, c.options);
  const at::Tensor got = hidden_rows(pre, {}, c.plan, c.options);
  EXPECT_EQ(got.scalar_type(), at::kBFloat16);
  // Computed in fp32 and rounded once.
  EXPECT_TRUE(torch::allclose(c.used(got).to(at::kDouble), c.used(exact), 0x1.01p-8, 1e-9));
  const OutputGradient back{bf16(c.back.of_rows), bf16(c.back.through), c.back.scale.to(at::kFloat), c.back.bias};
  const HiddenGradients gradients = hidden_rows_backward(pre, back, c.plan, c.options);
  EXPECT_EQ(gradients.pre.scalar_type(), at::kBFloat16);
  EXPECT_EQ(gradients.after.scalar_type(), at::kBFloat16);
  EXPECT_EQ(gradients.dot.scalar_type(), at::kFloat);
}

}  // namespace
}  // namespace smoe
