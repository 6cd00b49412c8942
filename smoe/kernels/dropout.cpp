#include "smoe/kernels/dropout.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "smoe/base/error.h"
#include "smoe/base/philox.h"

namespace smoe {
namespace {

struct Bernoulli {
  uint64_t drop_below = 0;  // a word below this drops its element
  float scale = 1;          // what a kept element is multiplied by

  explicit Bernoulli(double p) {
    require(p >= 0 && p < 1, "dropout: p must be in [0, 1), got ", p);
    drop_below = bernoulli_threshold(p);
    scale = static_cast<float>(1.0 / (1.0 - p));
  }
  float operator()(uint32_t word) const { return word < drop_below ? 0.0f : scale; }
};

/// Fills out[0, count) from the blocks first_block, first_block + 1, … of the stream (key, high).
void fill_mask(float* out, int64_t count, uint64_t key, uint64_t first_block, uint64_t high, const Bernoulli& keep) {
  const int64_t whole = count / 4;
  for (int64_t b = 0; b < whole; ++b) {
    const PhiloxBlock block = philox(key, first_block + static_cast<uint64_t>(b), high);
    for (int64_t i = 0; i < 4; ++i) out[4 * b + i] = keep(block[static_cast<size_t>(i)]);
  }
  if (count % 4 != 0) {
    const PhiloxBlock block = philox(key, first_block + static_cast<uint64_t>(whole), high);
    for (int64_t i = 0; i < count % 4; ++i) out[4 * whole + i] = keep(block[static_cast<size_t>(i)]);
  }
}

constexpr int64_t kBlocksPerTask = 4096;

class DropoutFunction : public torch::autograd::Function<DropoutFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, double p, int64_t key) {
    context->saved_data["p"] = p;
    context->saved_data["key"] = key;
    return apply_mask(x, p, key);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradient) {
    return {apply_mask(gradient[0], context->saved_data["p"].toDouble(), context->saved_data["key"].toInt()),
            at::Tensor(), at::Tensor()};
  }

 private:
  static at::Tensor apply_mask(const at::Tensor& x, double p, int64_t key) {
    const at::Tensor mask = dropout_mask(x.numel(), p, static_cast<uint64_t>(key));
    return x * mask.view(x.sizes()).to(x.options());
  }
};

}  // namespace

at::Tensor dropout_mask(int64_t count, double p, uint64_t key) {
  const Bernoulli keep(p);
  at::Tensor mask = at::empty({count}, at::kFloat);
  float* out = mask.mutable_data_ptr<float>();
  at::parallel_for(0, (count + 3) / 4, kBlocksPerTask, [&](int64_t begin, int64_t end) {
    fill_mask(out + 4 * begin, std::min(4 * end, count) - 4 * begin, key, static_cast<uint64_t>(begin), 0, keep);
  });
  return mask;
}

at::Tensor expert_dropout_mask(const at::Tensor& token, int64_t expert, int64_t hidden, double p, uint64_t key) {
  const Bernoulli keep(p);
  require(token.dim() == 1 && token.scalar_type() == at::kLong && token.is_cpu() && token.is_contiguous(),
          "expert_dropout_mask: token must be int64 [R], contiguous, on the CPU, got ", token.scalar_type(), " ",
          token.sizes());
  const int64_t rows = token.numel();
  at::Tensor mask = at::empty({rows, hidden}, at::kFloat);
  float* out = mask.mutable_data_ptr<float>();
  const int64_t* tokens = token.const_data_ptr<int64_t>();
  at::parallel_for(0, rows, std::max<int64_t>(1, 4 * kBlocksPerTask / std::max<int64_t>(hidden, 1)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t r = begin; r < end; ++r) {
                       const uint64_t high = (static_cast<uint64_t>(expert) << 32) | static_cast<uint32_t>(tokens[r]);
                       fill_mask(out + r * hidden, hidden, key, 0, high, keep);
                     }
                   });
  return mask;
}

void fill_expert_mask(const int32_t* token, int64_t rows, int64_t expert, int64_t first_unit, int64_t units, double p,
                      uint64_t key, float* out) {
  const Bernoulli keep(p);
  for (int64_t r = 0; r < rows; ++r) {
    const uint64_t high = (static_cast<uint64_t>(expert) << 32) | static_cast<uint32_t>(token[r]);
    fill_mask(out + r * units, units, key, static_cast<uint64_t>(first_unit / 4), high, keep);
  }
}

at::Tensor dropout(const at::Tensor& x, double p, uint64_t key) {
  if (p == 0) return x;
  return DropoutFunction::apply(x, p, static_cast<int64_t>(key));
}

}  // namespace smoe
