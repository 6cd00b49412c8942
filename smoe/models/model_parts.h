// What a model consists of: its parameters, part by part.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "smoe/models/model.h"

namespace smoe {

/// Parameters of one part of a model.
struct PartCount {
  /// "embedding", "attention", "router", "experts", "shared experts", "feed-forward", "norms" or "other".
  std::string part;
  int64_t trainable = 0;
  int64_t frozen = 0;

  int64_t total() const { return trainable + frozen; }
};

/// The part that a parameter of that name belongs to (docs/formats.md lists the names).
std::string part_of(const std::string& parameter);

/// What becomes of `whole`, a parameter of a model with `experts` experts, in one whose parameter has the shape `shape` and
/// whose experts are `ids` of them: itself where it has that shape, and else, in the one dimension that differs, the pieces
/// of these experts. Nothing where it has no piece for each expert.
std::optional<at::Tensor> pick_experts(const at::Tensor& whole, at::IntArrayRef shape, const std::vector<int64_t>& ids,
                                       int64_t experts);

/// The parts that the model has, in the order of PartCount::part. Works on a model without values too.
std::vector<PartCount> count_parts(const torch::nn::Module& model);

}  // namespace smoe
