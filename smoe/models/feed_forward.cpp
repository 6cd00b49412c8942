#include "smoe/models/feed_forward.h"

#include "smoe/kernels/dropout.h"
#include "smoe/kernels/linear.h"
#include "smoe/tensor/profiled_part.h"

namespace smoe {

FeedForward::FeedForward(int64_t width, int64_t hidden, Activation activation, double init_std,
                         const RandomStream& random, std::shared_ptr<HiddenDropout> hidden_dropout)
    : activation_(activation), hidden_dropout_(std::move(hidden_dropout)) {
  const int64_t rows = is_gated(activation) ? 2 * hidden : hidden;
  w1_ = register_parameter("w1", random.at("w1").normal({rows, width}, 0, init_std));
  b1_ = register_parameter("b1", random.zeros({rows}));
  w2_ = register_parameter("w2", random.at("w2").normal({width, hidden}, 0, init_std));
  b2_ = register_parameter("b2", random.zeros({width}));
  if (hidden_dropout_ != nullptr) register_module("dropout", hidden_dropout_);
}

at::Tensor FeedForward::forward(const at::Tensor& x, double dropout_p, uint64_t dropout_key, Precision precision,
                                bool training) {
  const ProfiledPart part("smoe.feed-forward");
  at::Tensor hidden = activate(linear(x, w1_, b1_, precision), activation_);
  if (hidden_dropout_ != nullptr && training) {
    hidden = hidden_dropout_->drop(hidden, RandomStream(dropout_key).at("units"));
  }
  const bool plain = hidden_dropout_ == nullptr || hidden_dropout_->is_beside_plain();
  if (plain) hidden = dropout(hidden, dropout_p, dropout_key);
  return linear(hidden, w2_, b2_, precision);
}

std::map<std::string, Term> FeedForward::terms() const {
  return hidden_dropout_ == nullptr ? std::map<std::string, Term>() : hidden_dropout_->terms(w2_);
}

}  // namespace smoe
