// What a model consists of: its parameters, part by part.
#pragma once

#include <cstdint>
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

/// The parts that the model has, in the order of PartCount::part. Works on a model without values too.
std::vector<PartCount> count_parts(const torch::nn::Module& model);

}  // namespace smoe
