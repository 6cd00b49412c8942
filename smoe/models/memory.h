// What a model remembers of the tokens before a segment.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace smoe {

/// What a memory keeps of past tokens.
enum class MemoryOf {
  kInputs,         ///< what came into each layer: every pass projects it anew, with the weights of that pass
  kKeysAndValues,  ///< what was projected when they came: for passes without gradients, while the weights stay
};

/// Rows [B, M, ..] that come at the end and go at the beginning, in a buffer that has room for more of them. Copies
/// share it, and none sees what another adds.
class GrowingRows {
 public:
  /// M.
  int64_t size() const { return size_; }
  /// [B, M, ..], a view of the buffer which later changes leave as it is; undefined before the first append().
  at::Tensor rows() const;
  /// Adds `fresh` [B, S, ..]. Throws UserError where there are rows of another shape or dtype.
  void append(const at::Tensor& fresh);
  /// Drops all but the last `count`, or none where there are not more.
  void keep_last(int64_t count);

 private:
  struct Buffer {
    at::Tensor places;   // [B, capacity, ..]
    int64_t filled = 0;  // places in use by any copy
  };
  void move(int64_t capacity);

  std::shared_ptr<Buffer> buffer_;
  int64_t begin_ = 0, size_ = 0;
  int64_t last_added_ = 0;
};

/// What one layer remembers. In a memory of keys and values a layer still keeps inputs where a mixture projects, whose
/// router may look at all rows at once or draw at random.
struct LayerMemory {
  MemoryOf of = MemoryOf::kInputs;
  at::Tensor inputs;      ///< [B, M, D] in the parameters' dtype; undefined where keys and values are kept
  GrowingRows key_value;  ///< [B, M, 2, N, P] in the dtype of products, keys first
  at::Tensor positions;   ///< W_r R [at least M, N, P], the last row for distance 0, in a memory of keys and values

  int64_t length() const { return inputs.defined() ? inputs.size(1) : key_value.size(); }
  /// B; 0 before there were tokens.
  int64_t batch() const { return length() == 0 ? 0 : (inputs.defined() ? inputs : key_value.rows()).size(0); }
  /// After a segment with inputs x [B, S, D], whose keys and values are there: keeps the last `length` tokens of all.
  void end_segment(const at::Tensor& x, int64_t length);
};

/// What a model remembers, layer by layer; M may be 0. LanguageModel::empty_memory() makes one.
struct Memory {
  std::vector<LayerMemory> layers;

  MemoryOf of() const { return layers.empty() ? MemoryOf::kInputs : layers[0].of; }
  int64_t length() const { return layers.empty() ? 0 : layers[0].length(); }
  int64_t batch() const { return layers.empty() ? 0 : layers[0].batch(); }
  /// How many of the smallest distances have their position projected and kept.
  int64_t distances() const {
    return layers.empty() || !layers[0].positions.defined() ? 0 : layers[0].positions.size(0);
  }
};

}  // namespace smoe
