// The mixture's backward pass on a CPU.
//
// One piece of work is an expert, or a slice of the hidden layer of one that has many rows, over tiles of its rows. With a
// tile in the cache, it goes from the gradient of the output to that of the hidden layer, adds to both weight gradients,
// and writes the rows of the gradient of x, which are then added up token by token. Where the weights are large it goes
// over the tiles once for each chunk of hidden columns, whose weight gradients stay in the cache meanwhile. How the work is
// cut depends on the routing alone, and each sum has one order, so the bits do not depend on the threads.
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <atomic>
#include <vector>

#include "smoe/kernels/dropout.h"
#include "smoe/kernels/expert_pieces.h"
#include "smoe/kernels/moe_mlp_cpu.h"

namespace smoe {
namespace {

constexpr int64_t kTileRows = 256;          // of a tile, each of which reads and writes the weight gradients once
constexpr int64_t kSlice = 64;              // hidden columns of a tile that are worked on at once
constexpr int64_t kGroup = 256;             // hidden columns that are added to the gradient of x at once
constexpr int64_t kChunkBytes = 4ll << 20;  // of the weight gradients of a chunk
constexpr int64_t kVector = 16;             // numbers that the passes which take whole vectors take at once

/// Hidden columns of a chunk.
int64_t chunk_at(int64_t width, int64_t halves) {
  const int64_t column_bytes = (halves + 1) * width * static_cast<int64_t>(sizeof(float));
  return std::max<int64_t>(1, kChunkBytes / column_bytes / kSlice) * kSlice;
}

enum Input { kX, kWeight, kW1, kB1, kW2, kB2 };

template <class T>
class Backward {
 public:
  Backward(const MlpCall& call, at::Tensor hidden, const at::Tensor& gradient, const MlpWanted& wanted)
      : call_(call),
        sizes_(call),
        wanted_(wanted),
        rows_(group_by_expert(call.expert, sizes_.E)),
        x_(call.x.contiguous()),
        gradient_(gradient.to(x_.scalar_type()).contiguous()),
        hidden_(std::move(hidden)),
        weight_(row_weights(call.weight, rows_)),
        w1_(packed_weights(call.weights.w1, WeightUse::kBackward, 1, x_.scalar_type())),
        w2_(packed_weights(call.weights.w2, WeightUse::kBackward, 1, x_.scalar_type())),
        b2_(call.weights.b2, x_.scalar_type(), rows_.chosen()),
        pieces_(cut_into_pieces(rows_, sizes_.H, kSlice)) {
    const at::TensorOptions fp32 = x_.options().dtype(at::kFloat);
    if (wanted[kX]) x_rows_ = at::empty({pieces_.rows, sizes_.D}, fp32);
    if (wanted[kWeight]) dots_ = at::zeros({pieces_.rows}, fp32);
    if (wanted[kW1]) w1_gradient_ = weight_gradient(sizes_.halves * sizes_.H, sizes_.D);
    if (wanted[kW2]) w2_gradient_ = weight_gradient(sizes_.D, sizes_.H);
    if (wanted[kB1]) b1_sum_ = at::zeros({sizes_.E, sizes_.halves * sizes_.H}, fp32);
    if (wanted[kB2]) b2_sum_ = at::zeros({sizes_.E, sizes_.D}, fp32);
  }

  MlpGradients run() {
    std::atomic<size_t> next = 0;
    at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
      const at::AutoDispatchBelowADInplaceOrView no_autograd;  // a thread of its own does not inherit the caller's mode
      Space s(*this);
      for (size_t i = next++; i < pieces_.order.size(); i = next++) one_piece(pieces_.all[pieces_.order[i]], s);
      release_block_gemm(x_.scalar_type());
    });
    const MlpWeights& w = call_.weights;
    return {wanted_[kX] ? gradient_of_x() : at::Tensor(),
            wanted_[kWeight] ? gradient_of_weight() : at::Tensor(),
            like(w1_gradient_, w.w1),
            like(b1_sum_, w.b1),
            like(w2_gradient_, w.w2),
            like(b2_sum_, w.b2)};
  }

 private:
  using P = PassOf<T>;

  /// A thread's own memory.
  struct Space {
    explicit Space(const Backward& b) {
      const MlpSizes& n = b.sizes_;
      const int64_t rows = kTileRows, tile = tile_room(rows * kSlice);
      gradient = scratch.template take<T>(rows * b.operand_width(n.D));
      gradient_transposed = scratch.template take<P>(rows * n.D);
      x = scratch.template take<P>(rows * round_up(n.D, kPackedColumns));
      const int64_t width = std::min(b.chunk_, round_up(n.H, kSlice));
      w1 = scratch.template take<float>(b.wanted_[kW1] ? n.halves * width * n.D : 0);
      w2 = scratch.template take<float>(b.wanted_[kW2] ? width * n.D : 0);
      through = scratch.template take<float>(tile);
      after = scratch.template take<P>(tile);
      mask = scratch.template take<float>(b.call_.options.dropout_p > 0 ? tile : 0);
      for (int half = 0; half < 2; ++half) {
        before[half] = scratch.template take<P>(half < n.halves ? rows * kGroup : 0);
        before_transposed[half] = scratch.template take<P>(half < n.halves ? tile : 0);
      }
      if (b.call_.options.activation == Activation::kRelu) return;
      for (float** each : {&pre[0], &pre[1], &act, &weighed, &after_act, &of_pre[0], &of_pre[1]}) {
        *each = scratch.template take<float>(tile);
      }
    }

    Scratch scratch;
    T* gradient;                          // [rows, D] of the output, gathered
    P* gradient_transposed;               // [D, rows], weighted
    P* x;                                 // the gathered rows as a second operand
    float *w1, *w2;                       // [halves, chunk, D], [D, chunk] gradients until they are put in their place
    float *through, *mask;                // [rows, slice] gradient · W2; dropout
    P* after;                             // [rows, slice] after activation and dropout, a second operand
    P *before[2], *before_transposed[2];  // gradient before the activation, [rows, group] and [slice, rows]
    float *pre[2], *act, *weighed, *after_act, *of_pre[2];  // for an activation that LibTorch computes
  };

  /// A tile of an expert's rows; `rows` is `count` filled up with rows of zeros.
  struct Tile {
    int64_t first, count, rows;
    const int32_t* token;
    const float* weight;
  };

  int64_t operand_width(int64_t width) const { return packed_rows(width, x_.scalar_type()); }

  /// Room for [E, rows, columns]; what is not going to be written, the experts without tokens, is zero.
  at::Tensor weight_gradient(int64_t rows, int64_t columns) const {
    const bool rounds = std::is_same_v<T, c10::BFloat16> && call_.weights.w1.scalar_type() == at::kBFloat16;
    const at::ScalarType type = rounds ? at::kBFloat16 : at::kFloat;
    at::Tensor out = at::empty({sizes_.E, rows, columns}, x_.options().dtype(type));
    for (int64_t e = 0; e < sizes_.E; ++e) {
      if (rows_.rows_of(e) == 0) out.select(0, e).zero_();
    }
    return out;
  }

  static at::Tensor like(const at::Tensor& sum, const at::Tensor& of) {
    return sum.defined() ? sum.to(of.scalar_type()) : sum;
  }

  void one_piece(const ExpertPiece& piece, Space& s) {
    for (int64_t h = piece.h; h < piece.h_end; h += chunk_) {
      const ExpertPiece chunk{piece.e, h, std::min(h + chunk_, piece.h_end), piece.first_row};
      one_chunk(chunk, h > piece.h, s);
      put_weights(chunk, s);
    }
  }

  /// `add`: to the gradient of x, which has chunks before this one in it.
  void one_chunk(const ExpertPiece& piece, bool add, Space& s) {
    const int64_t begin = rows_.first[static_cast<size_t>(piece.e)], count = rows_.rows_of(piece.e);
    for_each_tile(begin, begin + count, kTileRows, [&](int64_t first, int64_t size) {
      const int64_t done = first - begin;
      const Tile tile{first, size, round_up(size, 8), rows_.token.data() + first, weight_.data() + first};
      gather(piece, tile, s);
      for (int64_t group = piece.h; group < piece.h_end; group += kGroup) {
        const int64_t end = std::min(group + kGroup, piece.h_end);
        for (int64_t h = group; h < end; h += kSlice) one_slice(piece, tile, h, h - group, done > 0, s);
        if (wanted_[kX]) add_to_x(piece, tile, group, end, done, add || group > piece.h, s);
      }
    });
  }

  void gather(const ExpertPiece& piece, const Tile& tile, Space& s) {
    const P* gradient = as_pass(gradient_.const_data_ptr<T>());
    const P* x = as_pass(x_.const_data_ptr<T>());
    const int64_t D = sizes_.D;
    passes_.gather(gradient, D, tile.token, tile.count, tile.rows, as_pass(s.gradient), operand_width(D));
    const bool is_first = piece.h == 0;  // what has no hidden column is done once
    float* b2_sum = wanted_[kB2] && is_first ? b2_sum_.mutable_data_ptr<float>() + piece.e * D : nullptr;
    if (wanted_[kW2] || b2_sum != nullptr) {
      passes_.gather_transposed(gradient, D, tile.token, tile.weight, tile.count, tile.rows, s.gradient_transposed,
                                nullptr, b2_sum);
    }
    if (wanted_[kW1]) {
      passes_.gather_transposed(x, D, tile.token, nullptr, tile.count, tile.rows, nullptr, s.x, nullptr);
    }
    if (wanted_[kWeight] && is_first && b2_.of(piece.e) != nullptr) {
      passes_.dot_bias(gradient, tile.token, tile.count, D, b2_.of(piece.e), dots(piece, tile));
    }
  }

  /// Where a tile's gradients of the routing's weights are summed; null where they are not wanted.
  float* dots(const ExpertPiece& piece, const Tile& tile) {
    if (!wanted_[kWeight]) return nullptr;
    return dots_.mutable_data_ptr<float>() + piece.first_row + tile.first - rows_.first[static_cast<size_t>(piece.e)];
  }

  /// Puts a chunk's gradients of both matrices where they belong.
  void put_weights(const ExpertPiece& chunk, Space& s) {
    const int64_t D = sizes_.D, H = sizes_.H, width = chunk.width();
    const auto put = [](const float* sum, int64_t rows, int64_t columns, at::Tensor& out, int64_t at, int64_t ld) {
      if (out.scalar_type() == at::kFloat) {
        row_passes<float>().put_sums(sum, rows, columns, out.mutable_data_ptr<float>() + at, ld);
      } else {
        auto* const to = reinterpret_cast<Bf16*>(out.mutable_data_ptr<c10::BFloat16>());
        row_passes<Bf16>().put_sums(sum, rows, columns, to + at, ld);
      }
    };
    for (int64_t half = 0; wanted_[kW1] && half < sizes_.halves; ++half) {
      const int64_t row = (chunk.e * sizes_.halves + half) * H + chunk.h;
      put(s.w1 + half * width * D, width, D, w1_gradient_, row * D, D);
    }
    if (wanted_[kW2]) put(s.w2, D, width, w2_gradient_, chunk.e * D * H + chunk.h, H);
  }

  /// The hidden columns from h on, which are the ones from `column` on of their group. `add`: to the chunk's gradients of
  /// both matrices, which have tiles before this one in them.
  void one_slice(const ExpertPiece& piece, const Tile& tile, int64_t h, int64_t column, bool add, Space& s) {
    const int64_t D = sizes_.D, depth = operand_width(D);
    const int64_t width = std::min(kSlice, piece.h_end - h), ld = operand_width(width);
    multiply_blocks(tile.rows, width, depth, s.gradient, depth, w2_.block(piece.e, 0, 0, h), kPackedColumns,
                    w2_.block_stride(), s.through, width, false);
    to_hidden(piece, tile, h, width, column, s);
    if (wanted_[kW2]) {
      multiply_blocks(D, width, tile.rows, reinterpret_cast<const T*>(s.gradient_transposed), tile.rows,
                      reinterpret_cast<const T*>(s.after), ld, kPackedColumns * columns_step(), s.w2 + h - piece.h,
                      piece.width(), add);
    }
    for (int64_t half = 0; wanted_[kW1] && half < sizes_.halves; ++half) {
      float* const sum = s.w1 + (half * piece.width() + h - piece.h) * D;
      const P* before = s.before_transposed[half];  // NOLINT(clang-analyzer-security.ArrayBound): halves is 1 or 2
      multiply_blocks(width, D, tile.rows, reinterpret_cast<const T*>(before), tile.rows,
                      reinterpret_cast<const T*>(s.x), kPackedColumns, kPackedColumns * tile.rows, sum, D, add);
    }
  }

  /// The rows of the gradient of x, from the hidden columns [h, h_end) of a group; or `add` to them. `done` rows of the
  /// expert are before the tile.
  void add_to_x(const ExpertPiece& piece, const Tile& tile, int64_t h, int64_t h_end, int64_t done, bool add,
                Space& s) {
    const int64_t D = sizes_.D;
    float* const rows = x_rows_.mutable_data_ptr<float>() + (piece.first_row + done) * D;
    for (int64_t half = 0; half < sizes_.halves; ++half) {
      const P* before = s.before[half];  // NOLINT(clang-analyzer-security.ArrayBound): halves is 1 or 2
      multiply_blocks(tile.rows, D, operand_width(h_end - h), reinterpret_cast<const T*>(before), kGroup,
                      w1_.block(piece.e, 0, half * sizes_.H + h, 0), kPackedColumns, w1_.block_stride(), rows, D,
                      add || half > 0);
    }
  }

  /// Elements from one column of an operand to the next: pairs of rows stand side by side.
  static constexpr int64_t columns_step() { return std::is_same_v<T, float> ? 1 : 2; }

  /// From gradient · W2 to the gradient before the activation, for the hidden columns [h, h + width), from `column` on of
  /// their group.
  void to_hidden(const ExpertPiece& piece, const Tile& tile, int64_t h, int64_t width, int64_t column, Space& s) {
    const MlpOptions& options = call_.options;
    const int64_t ld = hidden_.size(1), count = tile.count * width;
    HiddenTile hidden{.rows = tile.rows,
                      .valid = tile.count,
                      .width = width,
                      .ld = operand_width(width),
                      .mask = nullptr,
                      .ld_before = kGroup,
                      // The next slice of the tile's rows, or the first one of those after them.
                      .ahead = h + width < piece.h_end ? width : tile.count * ld - (h - piece.h)};
    const P* kept = as_pass(hidden_.const_data_ptr<T>()) + tile.first * ld + h;
    P* after = wanted_[kW2] ? s.after : nullptr;
    const auto transposed = [&](int64_t half) { return wanted_[kW1] ? s.before_transposed[half] : nullptr; };
    const auto b1_sum = [&](int64_t half) {
      return wanted_[kB1] ? b1_sum_.mutable_data_ptr<float>() + (piece.e * sizes_.halves + half) * sizes_.H + h
                          : nullptr;
    };
    if (options.activation == Activation::kRelu) {  // whose hidden rows say what dropout dropped
      hidden.kept_scale = static_cast<float>(1.0 / (1.0 - options.dropout_p));
      passes_.relu_backward(hidden, s.through, tile.weight, kept, ld, after, s.before[0] + column, transposed(0),
                            dots(piece, tile), b1_sum(0));
      return;
    }
    if (options.dropout_p > 0) {
      fill_expert_mask(tile.token, tile.count, piece.e, h, width, options.dropout_p, options.dropout_key, s.mask);
      hidden.mask = s.mask;
    }
    const bool gated = sizes_.halves == 2;
    if (passes_.activate_backward != nullptr && width % kVector == 0) {
      const P* const value = gated ? kept + sizes_.H : nullptr;
      const auto backward = [&](HiddenGradient which, int64_t half, P* after_or_not, float* dot) {
        passes_.activate_backward(hidden, pass_function(options.activation), which, s.through, tile.weight, kept, value,
                                  ld, after_or_not, s.before[half] + column, transposed(half), dot, b1_sum(half));
      };
      backward(HiddenGradient::kGate, 0, after, dots(piece, tile));
      if (gated) backward(HiddenGradient::kValue, 1, nullptr, nullptr);
      return;
    }
    const Activation function = gate_function(options.activation);
    passes_.widen(hidden, kept, ld, s.pre[0]);
    if (gated) passes_.widen(hidden, kept + sizes_.H, ld, s.pre[1]);
    activate_tile(function, s.pre[0], count, s.act);
    HiddenTile wide = hidden;  // the activation's output in fp32 is no operand yet
    wide.ld = width;
    row_passes<float>().finish_hidden(wide, s.act, gated ? s.pre[1] : nullptr, s.after_act);
    passes_.weigh(hidden, s.through, tile.weight, gated ? s.pre[1] : nullptr, s.weighed);
    activate_tile_backward(function, s.weighed, s.pre[0], count, s.of_pre[0]);
    passes_.finish_backward(hidden, s.through, s.after_act, s.of_pre[0], after, s.before[0] + column, transposed(0),
                            dots(piece, tile), b1_sum(0));
    if (!gated) return;
    passes_.weigh(hidden, s.through, tile.weight, s.act, s.of_pre[1]);
    passes_.finish_backward(hidden, s.through, s.after_act, s.of_pre[1], nullptr, s.before[1] + column, transposed(1),
                            nullptr, b1_sum(1));
  }

  /// Calls visit(row) with a row's place in each piece of its expert, in order.
  template <class Visit>
  void for_each_piece_row(int64_t e, int64_t row, const Visit& visit) const {
    const int64_t within = row - rows_.first[static_cast<size_t>(e)];
    for (size_t p = pieces_.first[static_cast<size_t>(e)]; p < pieces_.first[static_cast<size_t>(e) + 1]; ++p) {
      visit(pieces_.all[p].first_row + within);
    }
  }

  at::Tensor gradient_of_x() const {
    at::Tensor out = at::empty({sizes_.T, sizes_.D}, x_.options());
    P* to = as_pass(out.mutable_data_ptr<T>());
    const float* from = x_rows_.const_data_ptr<float>();
    const int64_t grain = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, sizes_.K * sizes_.D));
    at::parallel_for(0, sizes_.T, grain, [&](int64_t begin, int64_t end) {
      std::vector<const float*> terms;
      for (int64_t t = begin; t < end; ++t) {
        terms.clear();
        for (int64_t i = rows_.token_first[static_cast<size_t>(t)]; i < rows_.token_first[static_cast<size_t>(t) + 1];
             ++i) {
          const int64_t row = rows_.token_row[static_cast<size_t>(i)];
          for_each_piece_row(expert_of(row), row, [&](int64_t at) { terms.push_back(from + at * sizes_.D); });
        }
        passes_.sum_rows(terms.data(), static_cast<int64_t>(terms.size()), sizes_.D, to + t * sizes_.D);
      }
    });
    return out;
  }

  int64_t expert_of(int64_t row) const {
    return std::upper_bound(rows_.first.begin(), rows_.first.end(), row) - rows_.first.begin() - 1;
  }

  at::Tensor gradient_of_weight() const {
    at::Tensor out = at::zeros({sizes_.T, sizes_.K}, dots_.options());
    float* to = out.mutable_data_ptr<float>();
    const float* from = dots_.const_data_ptr<float>();
    for (int64_t e = 0; e < sizes_.E; ++e) {
      for (int64_t row = rows_.first[static_cast<size_t>(e)]; row < rows_.first[static_cast<size_t>(e) + 1]; ++row) {
        float& sum = to[rows_.slot[static_cast<size_t>(row)]];
        for_each_piece_row(e, row, [&](int64_t at) { sum += from[at]; });
      }
    }
    return out.to(call_.weight.scalar_type());
  }

  const MlpCall& call_;
  const MlpSizes sizes_;
  const int64_t chunk_ = chunk_at(sizes_.D, sizes_.halves);
  const MlpWanted wanted_;
  const RowPasses<P>& passes_ = row_passes<P>();
  const ExpertRows rows_;
  const at::Tensor x_, gradient_, hidden_;
  const std::vector<float> weight_;  // in the order of rows_
  const PackedExperts<T> w1_, w2_;
  const BiasRows b2_;
  const ExpertPieces pieces_;
  at::Tensor x_rows_, dots_, w1_gradient_, b1_sum_, w2_gradient_, b2_sum_;
};

}  // namespace

MlpGradients moe_mlp_cpu_backward(const MlpCall& call, const at::Tensor& hidden, const at::Tensor& gradient,
                                  const MlpWanted& wanted) {
  if (call.x.scalar_type() == at::kBFloat16) return Backward<c10::BFloat16>(call, hidden, gradient, wanted).run();
  return Backward<float>(call, hidden, gradient, wanted).run();
}

}  // namespace smoe
