// What the machine can do at most: products of blocks, and reading memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "bench/samples.h"

namespace smoe::bench {

/// A product of blocks [m, k] · [k, n].
struct BlockShape {
  int64_t m, n, k;
  std::string text() const;  ///< "32x64x256"
};

/// The blocks that the kernels multiply: tiles of rows by 64 columns, along a width or a slice of the hidden layer.
const std::vector<BlockShape>& kernel_blocks();

/// The speed of the microkernel that the kernels stand on (kernels/block_gemm.h), on all threads of LibTorch at once,
/// each on blocks of its own that stay in its cache.
class BlockPeak {
 public:
  /// fp32 or bf16, where has_block_gemm says so.
  BlockPeak(at::ScalarType type, const BlockShape& shape);

  const BlockShape& shape() const { return shape_; }
  /// Some milliseconds of products: floating-point operations a second, 2 per multiply-add, from when all threads are
  /// awake until the last one is done.
  double sample() const;

 private:
  double run(int64_t calls) const;  // seconds

  at::ScalarType type_;
  BlockShape shape_;
  at::Tensor a_, b_, c_;  // of all threads
  int64_t calls_ = 1;     // of a thread in one sample
};

/// The fastest of kernel_blocks() for a dtype, each tried a few times.
BlockPeak best_block(at::ScalarType type);

/// Calls `visit(thread, threads)` on all threads of LibTorch.
void on_all_threads(const std::function<void(int64_t thread, int64_t threads)>& visit);

/// Reads as read_sum does, for the time it takes.
void read_and_keep(const void* data, int64_t bytes);

/// Reads `bytes` bytes (rounded down to whole steps of kReadStep for each thread) at `data` once, on all threads.
void read_on_all_threads(const void* data, int64_t bytes);

/// Bytes a second that all threads read together, each again and again from a part of its own.
class ReadSpeed {
 public:
  /// `bytes` of all threads together.
  explicit ReadSpeed(int64_t bytes);

  int64_t bytes() const { return buffer_.numel(); }
  double sample() const;

 private:
  double run(int64_t passes) const;  // seconds

  at::Tensor buffer_;
  int64_t passes_ = 1;
};

/// The numbers of smoe bench limits: `repeat` rounds over all of them.
nlohmann::ordered_json measure_limits(int64_t repeat);

}  // namespace smoe::bench
