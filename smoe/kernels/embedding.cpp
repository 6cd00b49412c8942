#include "smoe/kernels/embedding.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "smoe/base/error.h"
#include "smoe/tensor/once_differentiable.h"
#include "smoe/tensor/one_device.h"
#include "smoe/tensor/profiled_part.h"

namespace smoe {
namespace {

/// Rows of out = scale · rows of the table, and the other way: rows of the table += scale · rows of out. Threads share
/// the columns there, so that each sums up in the order of the tokens.
template <class Scalar>
struct Rows {
  const int64_t* token;
  int64_t tokens, width;
  Scalar scale;

  void gather(const Scalar* table, Scalar* out) const {
    at::parallel_for(0, tokens, std::max<int64_t>(1, 16384 / width), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const Scalar* from = table + token[t] * width;
        for (int64_t d = 0; d < width; ++d) out[t * width + d] = scale * from[d];
      }
    });
  }

  void scatter(const Scalar* out, Scalar* table) const {
    at::parallel_for(0, width, std::max<int64_t>(64, 65536 / tokens), [&](int64_t begin, int64_t end) {
      for (int64_t t = 0; t < tokens; ++t) {
        Scalar* to = table + token[t] * width;
        for (int64_t d = begin; d < end; ++d) to[d] += scale * out[t * width + d];
      }
    });
  }
};

template <class Scalar>
Rows<Scalar> rows_of(const at::Tensor& token, int64_t width, double scale) {
  return {token.const_data_ptr<int64_t>(), token.numel(), width, static_cast<Scalar>(scale)};
}

class Embed : public torch::autograd::Function<Embed> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& table, const at::Tensor& token,
                            double scale) {
    context->save_for_backward({token});
    context->saved_data["rows"] = table.size(0);
    context->saved_data["scale"] = scale;
    std::vector<int64_t> sizes = token.sizes().vec();
    sizes.push_back(table.size(1));
    at::Tensor out = at::empty(sizes, table.options());
    if (out.numel() == 0) return out;
    if (table.scalar_type() == at::kFloat) {
      rows_of<float>(token, table.size(1), scale).gather(table.const_data_ptr<float>(), out.mutable_data_ptr<float>());
    } else {
      rows_of<double>(token, table.size(1), scale)
          .gather(table.const_data_ptr<double>(), out.mutable_data_ptr<double>());
    }
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const at::Tensor token = context->get_saved_variables()[0], gradient = gradients[0].contiguous();
    const double scale = context->saved_data["scale"].toDouble();
    const int64_t width = gradient.size(-1);
    at::Tensor table = at::zeros({context->saved_data["rows"].toInt(), width}, gradient.options());
    if (gradient.numel() > 0) {
      if (gradient.scalar_type() == at::kFloat) {
        rows_of<float>(token, width, scale).scatter(gradient.const_data_ptr<float>(), table.mutable_data_ptr<float>());
      } else {
        rows_of<double>(token, width, scale)
            .scatter(gradient.const_data_ptr<double>(), table.mutable_data_ptr<double>());
      }
    }
    return once_differentiable({table, at::Tensor(), at::Tensor()}, {gradients[0]}, "embed");
  }
};

}  // namespace

at::Tensor embed(const at::Tensor& table, const at::Tensor& token, double scale) {
  const ProfiledPart part("smoe.embedding");
  require(table.dim() == 2 && token.scalar_type() == at::kLong, "embed: table must be [V, D] and token int64, got ",
          table.sizes(), " and ", token.scalar_type());
  require_one_device("embed", {&table, &token});
  const auto type = table.scalar_type();
  if (!table.device().is_cpu() || (type != at::kFloat && type != at::kDouble))
    return at::embedding(table, token) * scale;
  if (token.numel() > 0) {
    const int64_t least = token.min().item<int64_t>(), most = token.max().item<int64_t>();
    require(least >= 0 && most < table.size(0), "embed: tokens must be in [0, ", table.size(0), "), got ", least,
            " to ", most);
  }
  return Embed::apply(table.contiguous(), token.contiguous(), scale);
}

}  // namespace smoe
