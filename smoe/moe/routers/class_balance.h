// What routers share whose experts are of several classes.
#pragma once

#include <ATen/core/Tensor.h>

#include "smoe/moe/routing.h"
#include "smoe/moe/select.h"

namespace smoe {

/// What balance terms of one micro-batch are made of, over its valid tokens; zeros where there is none.
struct Balance {
  at::Tensor share;        ///< [E] the share of the assignments that each expert got, without gradient; sums to 1
  at::Tensor probability;  ///< [E] the mean probability of each expert
};

/// `expert` int32 [T, K] is what was assigned; `valid` bool [T] may be undefined.
Balance balance_of(const at::Tensor& expert, const Probabilities& probabilities, const at::Tensor& valid);

/// The selection without the `count` experts from id `first` on, whose slots become empty: what weights are made of where
/// those experts have none.
Selection without(const Selection& selection, int64_t first, int64_t count);

}  // namespace smoe
