// Attention on a CPU with block microkernels: LibTorch's side of it, and autograd. Between forward and backward it keeps
// its inputs, its output and the log-sum-exp of each row of scores; probabilities and masks are computed again.
#include "smoe/kernels/attention_cpu.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "smoe/tensor/once_differentiable.h"

namespace smoe {
namespace {

using attention_cpu::Gradients;
using attention_cpu::Inputs;
using attention_cpu::Shape;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Shape shape_of(const at::Tensor& query, const at::Tensor& key_value, int64_t window, double dropout, int64_t key) {
  const int64_t P = query.size(3);
  return {.B = query.size(0),
          .S = query.size(1),
          .L = key_value.size(1),
          .N = query.size(2),
          .P = P,
          .wide = query.scalar_type() == at::kFloat ? P : (P + 1) / 2 * 2,
          .window = window,
          .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(P))),
          .dropout = dropout,
          .dropout_key = static_cast<uint64_t>(key)};
}

template <class T>
Inputs<T> inputs_of(const at::Tensor& query, const at::Tensor& key_value, const at::Tensor& u, const at::Tensor& v) {
  return {.query = query.const_data_ptr<T>(),
          .key_value = key_value.const_data_ptr<T>(),
          .key_value_stride = key_value.stride(0),
          .u = u.const_data_ptr<float>(),
          .v = v.const_data_ptr<float>()};
}

class AttentionCpu : public torch::autograd::Function<AttentionCpu> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& query, const at::Tensor& key_value,
                            const at::Tensor& position, const at::Tensor& u, const at::Tensor& v, int64_t window,
                            double dropout, int64_t dropout_key) {
    const Shape shape = shape_of(query, key_value, window, dropout, dropout_key);
    at::Tensor out = at::empty({shape.B, shape.S, shape.N * shape.P}, query.options());
    at::Tensor log_sum = at::empty({shape.N, shape.B, shape.S}, at::kFloat);
    const auto run = [&]<class T>() {
      const auto body = shape.S == 1 ? attention_cpu::decode<T> : attention_cpu::forward<T>;
      body(shape, inputs_of<T>(query, key_value, u, v), position.const_data_ptr<T>(), out.mutable_data_ptr<T>(),
           log_sum.mutable_data_ptr<float>());
    };
    query.scalar_type() == at::kFloat ? run.operator()<float>() : run.operator()<c10::BFloat16>();
    context->save_for_backward({query, key_value, position, u, v, out, log_sum});
    context->saved_data["window"] = window;
    context->saved_data["dropout"] = dropout;
    context->saved_data["key"] = dropout_key;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &query = saved[0], &key_value = saved[1], &position = saved[2], &u = saved[3], &v = saved[4];
    const Shape shape = shape_of(query, key_value, context->saved_data["window"].toInt(),
                                 context->saved_data["dropout"].toDouble(), context->saved_data["key"].toInt());
    const at::Tensor gradient = gradients[0].contiguous();
    at::Tensor of_query = at::empty_like(query), of_key_value = at::empty(key_value.sizes(), key_value.options());
    at::Tensor of_position = at::empty_like(position);
    at::Tensor of_u = at::empty({shape.N, shape.B, shape.P}, at::kFloat), of_v = at::empty_like(of_u);
    const auto run = [&]<class T>() {
      const Gradients<T> to{.query = of_query.mutable_data_ptr<T>(),
                            .key_value = of_key_value.mutable_data_ptr<T>(),
                            .position = of_position.mutable_data_ptr<T>(),
                            .u = of_u.mutable_data_ptr<float>(),
                            .v = of_v.mutable_data_ptr<float>()};
      attention_cpu::backward(shape, inputs_of<T>(query, key_value, u, v), position.const_data_ptr<T>(),
                              saved[5].const_data_ptr<T>(), saved[6].const_data_ptr<float>(),
                              gradient.const_data_ptr<T>(), to);
    };
    query.scalar_type() == at::kFloat ? run.operator()<float>() : run.operator()<c10::BFloat16>();
    const at::Tensor none;
    return once_differentiable({of_query, of_key_value, of_position, of_u.sum(1), of_v.sum(1), none, none, none},
                               {gradients[0], query, key_value, position, u, v}, "attention");
  }
};

}  // namespace

bool relative_attention_cpu_takes(const RelativeAttentionInput& in) {
  const auto type = in.query.scalar_type();
  return in.query.device().is_cpu() && (type == at::kFloat || type == at::kBFloat16) && has_block_gemm(type) &&
         in.content_bias.scalar_type() == at::kFloat && in.position_bias.scalar_type() == at::kFloat &&
         in.query.numel() > 0;
}

at::Tensor relative_attention_cpu(const RelativeAttentionInput& in) {
  // Sequences may be far apart, as they are in the middle of a longer memory.
  const bool whole_sequences = in.key_value[0].is_contiguous();
  return AttentionCpu::apply(in.query.contiguous(), whole_sequences ? in.key_value : in.key_value.contiguous(),
                             in.position.contiguous(), in.content_bias.contiguous(), in.position_bias.contiguous(),
                             in.window, in.dropout, static_cast<int64_t>(in.dropout_key));
}

}  // namespace smoe
