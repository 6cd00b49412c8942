#include "smoe/models/feed_forward.h"

#include "smoe/kernels/dropout.h"
#include "smoe/kernels/linear.h"
#include "smoe/tensor/profiled_part.h"

namespace smoe {

FeedForward::FeedForward(int64_t width, int64_t hidden, Activation activation, double init_std,
                         const RandomStream& random)
    : activation_(activation) {
  const int64_t rows = is_gated(activation) ? 2 * hidden : hidden;
  w1_ = register_parameter("w1", random.at("w1").normal({rows, width}, 0, init_std));
  b1_ = register_parameter("b1", random.zeros({rows}));
  w2_ = register_parameter("w2", random.at("w2").normal({width, hidden}, 0, init_std));
  b2_ = register_parameter("b2", random.zeros({width}));
}

at::Tensor FeedForward::forward(const at::Tensor& x, double dropout_p, uint64_t dropout_key, Precision precision) {
  const ProfiledPart part("smoe.feed-forward");
  const at::Tensor hidden = activate(linear(x, w1_, b1_, precision), activation_);
  return linear(dropout(hidden, dropout_p, dropout_key), w2_, b2_, precision);
}

}  // namespace smoe
