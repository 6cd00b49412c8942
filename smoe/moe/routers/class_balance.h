// Balance terms of routers whose experts are of several classes.
#pragma once

#include <ATen/core/Tensor.h>

#include "smoe/moe/routing.h"

namespace smoe {

/// What balance terms of one micro-batch are made of, over its valid tokens; zeros where there is none.
struct Balance {
  at::Tensor share;        ///< [E] the share of the assignments that each expert got, without gradient; sums to 1
  at::Tensor probability;  ///< [E] the mean probability of each expert
};

/// `expert` int32 [T, K] is what was assigned; `valid` bool [T] may be undefined.
Balance balance_of(const at::Tensor& expert, const Probabilities& probabilities, const at::Tensor& valid);

}  // namespace smoe
