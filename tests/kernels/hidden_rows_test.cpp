// Activation and dropout of rows grouped by expert, and their gradient.
#include "smoe/kernels/hidden_rows.h"

#include <gtest/gtest.h>

#include "smoe/kernels/dropout.h"
#include "tests/kernels/gradcheck.h"
#include "tests/kernels/mixture_case.h"

namespace smoe {
namespace {

using namespace testing;

struct HiddenCase {
  at::Tensor pre, through, scale;
  RowPlan plan;
  MlpOptions options;
  int64_t used = 0;  ///< rows up to the end of the last group
};

HiddenCase make_hidden_case(Activation activation, double p, int64_t align, uint64_t seed) {
  const int64_t H = 6;
  const MixtureCase c = make_case({.T = 7, .K = 2, .E = 3, .D = is_gated(activation) ? 2 * H : H, .H = 1}, seed);
  c.expert[1][0] = -1;
  HiddenCase out{.pre = {},
                 .through = {},
                 .scale = {},
                 .plan = make_row_plan(c.expert, 3, align),
                 .options = {activation, p, seed}};
  torch::manual_seed(seed);
  out.pre = torch::randn({out.plan.rows(), c.x.size(1)}, torch::kFloat64);
  out.through = torch::randn({out.plan.rows(), H}, torch::kFloat64);
  out.scale = torch::randn({out.plan.rows()}, torch::kFloat64);
  out.used = out.plan.offsets[3].item<int64_t>();
  return out;
}

/// The same through the functions of single experts, with LibTorch's autograd.
at::Tensor by_expert(const HiddenCase& c) {
  std::vector<at::Tensor> out;
  for (int64_t e = 0; e < 3; ++e) {
    const int64_t first = c.plan.offsets[e].item<int64_t>(), size = c.plan.offsets[e + 1].item<int64_t>() - first;
    const at::Tensor token = c.plan.slot.narrow(0, first, size).floor_divide(2).to(torch::kInt64);
    const at::Tensor hidden = activate(c.pre.narrow(0, first, size), c.options.activation);
    out.push_back(hidden * expert_dropout_mask(token, e, hidden.size(1), c.options.dropout_p, c.options.dropout_key));
  }
  return torch::cat(out);
}

TEST(HiddenRows, EqualTheFunctionsOfSingleExpertsAndTheirGradients) {
  for (size_t i = 0; i < activation_names().size(); ++i) {
    for (const double p : {0.0, 0.4}) {
      for (const int64_t align : {1, 4}) {
        HiddenCase c = make_hidden_case(static_cast<Activation>(i), p, align, i + 1);
        SCOPED_TRACE(activation_names()[i]);
        const auto used = [&](const at::Tensor& t) { return t.narrow(0, 0, c.used); };
        const at::Tensor got = hidden_rows(c.pre, c.plan, c.options);
        const HiddenGradients gradients = hidden_rows_backward(c.pre, c.through, c.scale, c.plan, c.options);
        const at::Tensor scale = used(c.scale).unsqueeze(1), through = used(c.through);
        c.pre.set_requires_grad(true);
        const at::Tensor want = by_expert(c);
        EXPECT_TRUE(torch::allclose(used(got), want, 1e-6, 1e-12));
        (want * through * scale).sum().backward();
        EXPECT_TRUE(torch::allclose(used(gradients.pre), used(c.pre.grad()), 1e-6, 1e-12));
        EXPECT_TRUE(torch::allclose(used(gradients.after), (want * scale).detach(), 1e-6, 1e-12));
        EXPECT_TRUE(torch::allclose(used(gradients.dot), (want * through).sum(1).detach(), 1e-6, 1e-12));
        const HiddenGradients after_only = hidden_rows_backward(c.pre.detach(), {}, c.scale, c.plan, c.options);
        EXPECT_FALSE(after_only.pre.defined() || after_only.dot.defined());
        EXPECT_TRUE(torch::equal(used(after_only.after), used(gradients.after)));
      }
    }
  }
}

TEST(HiddenRows, KeepTheTypeOfTheirInput) {
  HiddenCase c = make_hidden_case(Activation::kSwiglu, 0.3, 1, 5);
  const at::Tensor exact = hidden_rows(c.pre.to(at::kBFloat16).to(at::kDouble), c.plan, c.options);
  const at::Tensor got = hidden_rows(c.pre.to(at::kBFloat16), c.plan, c.options);
  EXPECT_EQ(got.scalar_type(), at::kBFloat16);
  // Computed in fp32 and rounded once.
  EXPECT_TRUE(torch::allclose(got.narrow(0, 0, c.used).to(at::kDouble), exact.narrow(0, 0, c.used), 0x1.01p-8, 1e-9));
  const HiddenGradients gradients = hidden_rows_backward(c.pre.to(at::kBFloat16), c.through.to(at::kBFloat16),
                                                         c.scale.to(at::kFloat), c.plan, c.options);
  EXPECT_EQ(gradients.pre.scalar_type(), at::kBFloat16);
  EXPECT_EQ(gradients.after.scalar_type(), at::kBFloat16);
  EXPECT_EQ(gradients.dot.scalar_type(), at::kFloat);
}

}  // namespace
}  // namespace smoe
