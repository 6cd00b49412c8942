// expert_gemm on a CPU's block microkernels: tiles of rows, read and written where they are, against matrices that are
// packed once for each version of a parameter.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <type_traits>

#include "smoe/kernels/block_gemm.h"
#include "smoe/kernels/expert_gemm_bodies.h"
#include "smoe/kernels/packed_weights.h"

namespace smoe {
namespace {

constexpr int64_t kTileRows = 128;
constexpr int64_t kTileBlocks = 8;  // of packed columns

struct Tile {
  int64_t expert, first, count;
};

std::vector<Tile> make_tiles(const std::vector<int64_t>& offsets) {
  std::vector<Tile> tiles;
  for (size_t e = 0; e + 1 < offsets.size(); ++e) {
    for (int64_t r = offsets[e]; r < offsets[e + 1]; r += kTileRows) {
      tiles.push_back({static_cast<int64_t>(e), r, std::min(kTileRows, offsets[e + 1] - r)});
    }
  }
  return tiles;
}

/// One product of a tile with one block of columns.
template <class T>
class TileProduct {
 public:
  TileProduct(const at::Tensor& a, const at::Tensor& packed, const at::Tensor& bias, at::Tensor& out)
      : a_(a.const_data_ptr<T>()),
        packed_(packed.const_data_ptr<T>()),
        bias_(bias.defined() ? bias.const_data_ptr<float>() : nullptr),
        out_(out.mutable_data_ptr<T>()),
        depth_(a.size(1)),
        width_(out.size(1)),
        expert_stride_(packed.stride(0)),
        block_stride_(packed.stride(2)) {}

  void run(const Tile& tile, int64_t block) {
    const int64_t n = block * kPackedColumns, columns = std::min(kPackedColumns, width_ - n);
    const T* b = packed_ + tile.expert * expert_stride_ + block * block_stride_;
    const float* bias = bias_ != nullptr ? bias_ + tile.expert * width_ + n : nullptr;
    float* sum = sum_.data();
    // Rows in a multiple of eight and a rest below it, so that only few microkernels exist.
    const int64_t whole = tile.count / 8 * 8;
    for (const auto& [first, rows] : {std::pair(int64_t{0}, whole), std::pair(whole, tile.count - whole)}) {
      if (rows == 0) continue;
      block_gemm(rows, columns, depth_, a_ + (tile.first + first) * depth_, depth_, b, kPackedColumns,
                 sum + first * kPackedColumns, kPackedColumns, false);
    }
    for (int64_t r = 0; r < tile.count; ++r) {
      T* to = out_ + (tile.first + r) * width_ + n;
      const float* from = sum + r * kPackedColumns;
      for (int64_t i = 0; i < columns; ++i) to[i] = static_cast<T>(bias != nullptr ? from[i] + bias[i] : from[i]);
    }
  }

 private:
  const T *a_, *packed_;
  const float* bias_;
  T* out_;
  int64_t depth_, width_, expert_stride_, block_stride_;
  alignas(64) std::array<float, kTileRows * kPackedColumns> sum_;
};

template <class T>
at::Tensor multiply(const at::Tensor& a, const at::Tensor& offsets, const at::Tensor& w, WeightUse use, int64_t width,
                    const at::Tensor& bias) {
  const auto type = a.scalar_type();
  const std::vector<Tile> tiles = make_tiles(offsets_on_cpu(offsets, a.size(0)));
  const at::Tensor from = a.contiguous(), packed = packed_weights(w, use, /*parts=*/1, type);
  const at::Tensor rounded = bias.defined() ? bias.to(type).to(at::kFloat).contiguous() : bias;
  at::Tensor out = at::empty({a.size(0), width}, a.options());
  const int64_t blocks = packed.size(2), pieces = (blocks + kTileBlocks - 1) / kTileBlocks;
  at::parallel_for(0, static_cast<int64_t>(tiles.size()) * pieces, 1, [&](int64_t begin, int64_t end) {
    TileProduct<T> product(from, packed, rounded, out);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % pieces * kTileBlocks;
      for (int64_t block = first; block < std::min(blocks, first + kTileBlocks); ++block) {
        product.run(tiles[static_cast<size_t>(i / pieces)], block);
      }
    }
    release_block_gemm(type);
  });
  return out;
}

at::Tensor multiply_any(const at::Tensor& a, const at::Tensor& offsets, const at::Tensor& w, WeightUse use,
                        int64_t width, const at::Tensor& bias) {
  return a.scalar_type() == at::kFloat ? multiply<float>(a, offsets, w, use, width, bias)
                                       : multiply<c10::BFloat16>(a, offsets, w, use, width, bias);
}

}  // namespace

bool expert_blocks_take(const at::Tensor& rows, const at::Tensor& w) {
  const auto type = rows.scalar_type();
  return rows.is_cpu() && has_block_gemm(type) && (w.scalar_type() == type || w.scalar_type() == at::kFloat) &&
         in_pairs(type, w.size(1)) && in_pairs(type, w.size(2)) && w.size(1) > 0 && w.size(2) > 0;
}

at::Tensor expert_products_blocks(const at::Tensor& rows, const at::Tensor& offsets, const at::Tensor& w,
                                  const at::Tensor& bias) {
  return multiply_any(rows, offsets, w, WeightUse::kForward, w.size(1), bias);
}

at::Tensor expert_input_gradient_blocks(const at::Tensor& gradient, const at::Tensor& offsets, const at::Tensor& w) {
  return multiply_any(gradient, offsets, w, WeightUse::kBackward, w.size(2), at::Tensor());
}

}  // namespace smoe
