#include "smoe/kernels/dropout.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/BFloat16.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "smoe/base/error.h"
#include "smoe/kernels/dropout_rows.h"
#include "smoe/kernels/row_kernels.h"
#include "smoe/tensor/profiled_part.h"

namespace smoe {
namespace {

constexpr int64_t kTile = 1024, kTilesPerTask = 16;

/// out = x · mask; the mask exists for a tile at a time.
template <class Scalar>
void multiply_by_mask(const at::Tensor& x, const DropoutRule& rule, at::Tensor& out) {
  const Scalar* in = x.const_data_ptr<Scalar>();
  Scalar* to = out.mutable_data_ptr<Scalar>();
  const int64_t count = x.numel();
  at::parallel_for(0, (count + kTile - 1) / kTile, kTilesPerTask, [&](int64_t begin, int64_t end) {
    float mask[kTile];
    for (int64_t first = begin * kTile; first < std::min(end * kTile, count); first += kTile) {
      const int64_t size = std::min(kTile, count - first);
      fill_dropout(rule, 0, first, size, mask);
      for (int64_t i = 0; i < size; ++i) to[first + i] = in[first + i] * static_cast<Scalar>(mask[i]);
    }
  });
}

class DropoutFunction : public torch::autograd::Function<DropoutFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, double p, int64_t key) {
    context->saved_data["p"] = p;
    context->saved_data["key"] = key;
    return apply_mask(x, p, key);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradient) {
    // By autograd again, so that there is a second derivative.
    return {apply(gradient[0], context->saved_data["p"].toDouble(), context->saved_data["key"].toInt()), at::Tensor(),
            at::Tensor()};
  }

 private:
  static at::Tensor apply_mask(const at::Tensor& x, double p, int64_t key) {
    if (row_kernels_take(x)) return dropout_cuda(x, p, static_cast<uint64_t>(key));
    const DropoutRule rule(p, static_cast<uint64_t>(key));
    const at::Tensor from = x.is_cpu() ? x.contiguous() : x;
    if (x.is_cpu()) {
      at::Tensor out = at::empty_like(from);
      switch (x.scalar_type()) {
        case at::kFloat: multiply_by_mask<float>(from, rule, out); return out;
        case at::kDouble: multiply_by_mask<double>(from, rule, out); return out;
        case at::kBFloat16: multiply_by_mask<c10::BFloat16>(from, rule, out); return out;
        default: break;
      }
    }
    return x * dropout_mask(x.numel(), p, static_cast<uint64_t>(key)).view(x.sizes()).to(x.options());
  }
};

}  // namespace

at::Tensor dropout_mask(int64_t count, double p, uint64_t key) {
  const DropoutRule rule(p, key);
  at::Tensor mask = at::empty({count}, at::kFloat);
  float* out = mask.mutable_data_ptr<float>();
  at::parallel_for(0, (count + kTile - 1) / kTile, kTilesPerTask, [&](int64_t begin, int64_t end) {
    fill_dropout(rule, 0, begin * kTile, std::min(end * kTile, count) - begin * kTile, out + begin * kTile);
  });
  return mask;
}

at::Tensor expert_dropout_mask(const at::Tensor& token, int64_t expert, int64_t hidden, double p, uint64_t key) {
  const DropoutRule rule(p, key);
  require(token.dim() == 1 && token.scalar_type() == at::kLong && token.is_cpu() && token.is_contiguous(),
          "expert_dropout_mask: token must be int64 [R], contiguous, on the CPU, got ", token.scalar_type(), " ",
          token.sizes());
  const int64_t rows = token.numel();
  at::Tensor mask = at::empty({rows, hidden}, at::kFloat);
  float* out = mask.mutable_data_ptr<float>();
  const int64_t* tokens = token.const_data_ptr<int64_t>();
  const int64_t grain = std::max<int64_t>(1, kTile * kTilesPerTask / std::max<int64_t>(hidden, 1));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      fill_dropout(rule, expert_counter(tokens[r], expert), 0, hidden, out + r * hidden);
    }
  });
  return mask;
}

void fill_expert_mask(const int32_t* token, int64_t rows, int64_t expert, int64_t first_unit, int64_t units, double p,
                      uint64_t key, float* out) {
  const DropoutRule rule(p, key);
  for (int64_t r = 0; r < rows; ++r) {
    fill_dropout(rule, expert_counter(token[r], expert), first_unit, units, out + r * units);
  }
}

at::Tensor dropout(const at::Tensor& x, double p, uint64_t key) {
  if (p == 0) return x;
  const ProfiledPart part("smoe.dropout");
  return DropoutFunction::apply(x, p, static_cast<int64_t>(key));
}

}  // namespace smoe
