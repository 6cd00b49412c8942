// The weights of a routing by expert.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace smoe {

/// The weight that each token gives to each of `count` experts, ids from 0 on: one [T, 1] an expert, 0 where a token does
/// not take it. expert int32 [T, K], distinct within a token, ids outside [0, count) are empty; weight [T, K].
std::vector<at::Tensor> weights_by_expert(const at::Tensor& expert, const at::Tensor& weight, int64_t count);

}  // namespace smoe
