#include "smoe/kernels/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "smoe/base/error.h"
#include "smoe/kernels/dropout.h"
#include "smoe/kernels/kernel_choice.h"
#include "smoe/kernels/relative_softmax.h"
#include "smoe/kernels/row_kernels.h"
#include "smoe/tensor/one_device.h"

namespace smoe {
namespace {

void check(const RelativeAttentionInput& in) {
  require(in.query.dim() == 4 && in.key_value.dim() == 5, "attention: query must be [B, S, N, P] and key_value ",
          "[B, L, 2, N, P], got ", in.query.sizes(), " and ", in.key_value.sizes());
  const int64_t B = in.query.size(0), S = in.query.size(1), N = in.query.size(2), P = in.query.size(3);
  const int64_t L = in.key_value.size(1);
  require(in.key_value.sizes() == at::IntArrayRef({B, L, 2, N, P}) && L >= S,
          "attention: key_value must be [B, L, 2, N, P] = [", B, ", at least ", S, ", 2, ", N, ", ", P, "], got ",
          in.key_value.sizes());
  require(in.position.sizes() == at::IntArrayRef({L, N, P}), "attention: position must be [L, N, P] = [", L, ", ", N,
          ", ", P, "], got ", in.position.sizes());
  for (const at::Tensor* bias : {&in.content_bias, &in.position_bias}) {
    require(bias->sizes() == at::IntArrayRef({N, P}), "attention: the biases must be [N, P] = [", N, ", ", P, "], got ",
            bias->sizes());
  }
  require_one_device("attention", {&in.query, &in.key_value, &in.position, &in.content_bias, &in.position_bias});
  require(in.key_value.scalar_type() == in.query.scalar_type() && in.position.scalar_type() == in.query.scalar_type(),
          "attention: query, key_value and position must be of one dtype, got ", in.query.scalar_type(), ", ",
          in.key_value.scalar_type(), " and ", in.position.scalar_type());
}

double scale_of(const RelativeAttentionInput& in) { return 1.0 / std::sqrt(static_cast<double>(in.query.size(3))); }

/// The probabilities [N·B, S, L] in the dtype of the scores' two terms, of which the second is not yet shifted.
at::Tensor probabilities_reference(const RelativeAttentionInput& in, const at::Tensor& content,
                                   const at::Tensor& relative) {
  const int64_t S = content.size(1), L = content.size(2);
  const auto type = content.scalar_type(), sum_type = type == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor score = (content.to(sum_type) + relative_shift(relative.to(sum_type))) * scale_of(in);
  const at::Tensor hidden = hidden_keys(S, L - S, in.window, content.device());
  const at::Tensor visible = score.masked_fill(hidden, -std::numeric_limits<double>::infinity());
  return dropout(at::softmax(visible, -1), in.dropout, in.dropout_key).to(type);
}

/// The body out of products, with `probabilities` between them.
template <class Probabilities>
at::Tensor attention_by_products(const RelativeAttentionInput& in, const Probabilities& probabilities) {
  const int64_t B = in.query.size(0), S = in.query.size(1), N = in.query.size(2), P = in.query.size(3);
  const int64_t L = in.key_value.size(1);
  const auto type = in.query.scalar_type(), sum_type = type == at::kDouble ? at::kDouble : at::kFloat;
  // Heads first, so that the position term is one product for the whole batch: [N, B, S, P].
  const at::Tensor query = in.query.to(sum_type).permute({2, 0, 1, 3});
  const at::Tensor key_value = in.key_value.permute({2, 3, 0, 1, 4});
  const at::Tensor key = key_value[0].reshape({N * B, L, P}), value = key_value[1].reshape({N * B, L, P});
  const at::Tensor place = in.position.permute({1, 2, 0});  // [N, P, L]

  const at::Tensor u = in.content_bias.view({N, 1, 1, P}), v = in.position_bias.view({N, 1, 1, P});
  const at::Tensor content = at::matmul((query + u).to(type).reshape({N * B, S, P}), key.transpose(1, 2));
  const at::Tensor relative = at::matmul((query + v).to(type).reshape({N, B * S, P}), place).view({N * B, S, L});
  const at::Tensor mixed = at::matmul(probabilities(content, relative), value);  // [N·B, S, P]
  return mixed.view({N, B, S, P}).permute({1, 2, 0, 3}).reshape({B, S, N * P});
}

}  // namespace

at::Tensor hidden_keys(int64_t segment, int64_t memory, int64_t window, at::Device device) {
  const at::TensorOptions options = at::TensorOptions().dtype(at::kLong).device(device);
  const at::Tensor query = at::arange(memory, memory + segment, options).unsqueeze(1);
  const at::Tensor key = at::arange(memory + segment, options).unsqueeze(0);
  const at::Tensor later = key.gt(query);
  return window < 0 ? later : later.logical_or(key.lt(query - window));
}

at::Tensor relative_shift(const at::Tensor& x) {
  const int64_t groups = x.size(0), segment = x.size(1), length = x.size(2);
  // With a column of zeros in front, reading the same numbers in rows of S shifts row i by S − 1 − i.
  const at::Tensor padded = at::cat({at::zeros({groups, segment, 1}, x.options()), x}, 2);
  return padded.view({groups, length + 1, segment}).narrow(1, 1, length).reshape({groups, segment, length});
}

at::Tensor relative_attention_reference(const RelativeAttentionInput& in) {
  return attention_by_products(in, [&](const at::Tensor& content, const at::Tensor& relative) {
    return probabilities_reference(in, content, relative);
  });
}

at::Tensor relative_attention(const RelativeAttentionInput& input) {
  check(input);
  if (!reference_kernels_forced() && relative_attention_cpu_takes(input)) return relative_attention_cpu(input);
  if (!reference_kernels_forced() && input.dropout == 0 && row_kernels_take(input.query)) {
    return attention_by_products(input, [&](const at::Tensor& content, const at::Tensor& relative) {
      return relative_softmax(content, relative, scale_of(input), input.window);
    });
  }
  return relative_attention_reference(input);
}

}  // namespace smoe
