// The dense feed-forward network of layers that are no mixtures.
#pragma once

#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <string>

#include "smoe/kernels/activation.h"
#include "smoe/kernels/pass_memory.h"
#include "smoe/models/hidden_dropout.h"
#include "smoe/tensor/precision.h"
#include "smoe/tensor/random_stream.h"

namespace smoe {

/// W2 · drop(act(W1 x + b1)) + b2, W1 [F, D] ([2 F, D] with a gated activation), W2 [D, F].
class FeedForward : public torch::nn::Module {
 public:
  /// `hidden_dropout`, where there is one, drops units in training, beside `dropout` or in place of it.
  FeedForward(int64_t width, int64_t hidden, Activation activation, double init_std, const RandomStream& random,
              std::shared_ptr<HiddenDropout> hidden_dropout = nullptr);

  /// x [T, D] → [T, D]; `dropout` is 0 at evaluation.
  at::Tensor forward(const at::Tensor& x, double dropout, uint64_t dropout_key, Precision precision,
                     bool training = false);

  /// What the block adds to the objective, by name.
  std::map<std::string, Term> terms() const;
  bool has_terms() const { return hidden_dropout_ != nullptr && hidden_dropout_->has_terms(); }

  int64_t flops_per_token() const { return 2 * (w1_.numel() + w2_.numel()); }
  int64_t parameter_count() const { return w1_.numel() + w2_.numel() + b1_.numel() + b2_.numel(); }
  /// What a forward of `tokens` tokens takes, with `training` its backward pass too.
  PassMemory pass_memory(int64_t tokens, bool dropout, Precision precision, bool training) const;

 private:
  Activation activation_;
  at::Tensor w1_, b1_, w2_, b2_;
  std::shared_ptr<HiddenDropout> hidden_dropout_;
};

}  // namespace smoe
