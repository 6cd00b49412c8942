// Explicit randomness: a key that is handed down and split by name, never a global generator.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

#include "smoe/base/philox.h"

namespace smoe {

/// A source of random numbers that is a value: the same stream gives the same numbers wherever and whenever it is used,
/// so a run that resumes needs no generator state. Split it by name or number for each use.
class RandomStream {
 public:
  explicit RandomStream(uint64_t key) : key_(key) {}

  /// A stream whose tensors have shapes but neither numbers nor memory (LibTorch's meta device), and so have all streams
  /// that are split from it: what a model made of it would need can be told before there is room for it.
  static RandomStream without_values();

  /// The stream of a named part ("layers.0.moe.router.weight") of this one.
  RandomStream at(std::string_view name) const;
  /// The stream of a numbered part (a layer, a step) of this one.
  RandomStream at(uint64_t index) const { return {derive_key(key_, index), has_values_}; }

  uint64_t key() const { return key_; }

  /// A new fp32 tensor of numbers from Normal(mean, deviation²), as fill_normal draws them.
  at::Tensor normal(at::IntArrayRef sizes, double mean, double deviation) const;
  /// A new fp32 tensor of zeros.
  at::Tensor zeros(at::IntArrayRef sizes) const;

  /// Fills `out` (any floating dtype) with Normal(mean, deviation²), drawn by LibTorch's generator seeded by the key.
  void fill_normal(const at::Tensor& out, double mean, double deviation) const;

  /// The `index`-th number of the stream, uniform in [0, 1).
  double uniform(uint64_t index) const;

  /// Numbers uniform in [0, 1), multiples of 2^-24, fp32 [T, columns] on the device of `rows`, int64 [T]: row t depends on
  /// the stream and on rows[t] alone, and is the beginning of what more columns give.
  at::Tensor uniform_rows(const at::Tensor& rows, int64_t columns) const;

 private:
  RandomStream(uint64_t key, bool has_values) : key_(key), has_values_(has_values) {}

  uint64_t key_;
  bool has_values_ = true;
};

}  // namespace smoe
