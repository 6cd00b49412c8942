// The mixture's forward pass on a CPU.
//
// Many tokens: each thread owns a range of tokens and walks the experts in ascending order over tiles of its own tokens'
// rows: gather, first product, bias and activation, second product, and straight into the output. No row leaves the cache
// but the hidden ones that the backward pass asks for.
// Few tokens (a decoding step), or few for each thread and expert: reading the weights is what costs, so threads own columns
// of them instead, and rows go through memory between the two products. Both ways make the same sums in the same order.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "smoe/kernels/dropout.h"
#include "smoe/kernels/moe_mlp_cpu.h"

namespace smoe {
namespace {

constexpr int64_t kTileRows = 128;
constexpr double kWorthWaking = 4 << 20;  // bytes that one thread moves while the others wake and move their shares

/// Rows that a product is given: more than a few are filled up to a multiple of eight, so that only few kernels exist.
int64_t product_rows(int64_t rows) { return rows <= 8 ? rows : round_up(rows, 8); }

template <class T>
class Forward {
 public:
  Forward(const MlpCall& call, bool keep_hidden)
      : call_(call),
        sizes_(call),
        rows_(group_by_expert(call.expert, sizes_.E)),
        chosen_(rows_.chosen()),
        x_(call.x.contiguous()),
        weight_(row_weights(call.weight, rows_)),
        w1_(packed(call.weights.w1, sizes_.halves, chosen_, keep_hidden)),
        w2_(packed(call.weights.w2, 1, chosen_, keep_hidden)),
        b1_(call.weights.b1, x_.scalar_type(), chosen_),
        b2_(call.weights.b2, x_.scalar_type(), chosen_),
        hidden_(at::empty({keep_hidden ? sizes_.T * sizes_.K : 0, sizes_.halves * sizes_.H}, x_.options())),
        sum_(at::zeros({sizes_.T, sizes_.D}, x_.options().dtype(at::kFloat))) {}

  MlpForward run() {
    if (threads_share_columns(load())) {
      by_columns();
    } else {
      by_tokens();
    }
    if constexpr (std::is_same_v<T, float>) return {sum_, hidden_};
    return {sum_.to(x_.scalar_type()), hidden_};
  }

 private:
  using P = PassOf<T>;

  static at::Tensor packed(const at::Tensor& w, int64_t parts, const std::vector<int64_t>& chosen, bool training) {
    constexpr auto kType = c10::CppTypeToScalarType<T>::value;
    return training ? packed_training_weights(w, parts, kType)
                    : packed_weights(w, WeightUse::kForward, parts, kType, chosen);
  }

  ForwardLoad load() const {
    const auto number = [](int64_t n) { return static_cast<double>(n); };
    return {.tokens = number(sizes_.T),
            .rows = number(rows_.rows()),
            .experts = number(std::ssize(chosen_)),
            .D = number(sizes_.D),
            .H = number(sizes_.H),
            .w1_rows = number(sizes_.halves * sizes_.H),
            .bytes = sizeof(T)};
  }

  /// A thread's own memory.
  struct Space {
    Scratch scratch;
    float* first[2];          // [rows, slice], the first product, of gates and values where there are two
    float *pre[2], *act;      // the same before and after an activation that LibTorch computes
    float* mask;              // [rows, slice]
    T* x = nullptr;           // [rows, D], the gathered rows; this and what follows only where a thread owns tokens
    T* after = nullptr;       // [rows, slice]
    float* second = nullptr;  // [rows, D], the second product
  };

  int64_t operand_width(int64_t width) const { return packed_rows(width, x_.scalar_type()); }

  /// Room for `rows` between the products, `slice` hidden columns of them.
  Space make_space(int64_t rows, int64_t slice) const {
    Space s;
    const int64_t tile = tile_room(rows * slice);
    for (int half = 0; half < 2; ++half) {
      s.first[half] = s.scratch.template take<float>(half < sizes_.halves ? tile : 0);
      s.pre[half] = s.scratch.template take<float>(call_.options.activation == Activation::kRelu ? 0 : tile);
    }
    s.act = s.scratch.template take<float>(call_.options.activation == Activation::kRelu ? 0 : tile);
    s.mask = s.scratch.template take<float>(call_.options.dropout_p > 0 ? rows * slice : 0);
    return s;
  }

  Space make_tile_space() const {
    const int64_t slice = std::min(kHiddenSlice, sizes_.H);
    Space s = make_space(kTileRows, slice);
    s.x = s.scratch.template take<T>(kTileRows * operand_width(sizes_.D));
    s.after = s.scratch.template take<T>(kTileRows * operand_width(slice));
    s.second = s.scratch.template take<float>(kTileRows * sizes_.D);
    return s;
  }

  /// The left operand of the first product: the rows themselves where they are one piece of x, else gathered.
  const T* gathered(int64_t first, int64_t count, Space& s) const {
    const int32_t* token = rows_.token.data() + first;
    const T* x = x_.const_data_ptr<T>();
    const auto follows = [](int32_t a, int32_t b) { return b != a + 1; };
    const bool as_it_stands = product_rows(count) == count && operand_width(sizes_.D) == sizes_.D;
    // Tokens ascend, so that the ends tell of all between, but for an id that a token has twice.
    const bool in_one_piece = token[count - 1] - token[0] == count - 1;
    if (as_it_stands && in_one_piece && std::adjacent_find(token, token + count, follows) == token + count) {
      return x + token[0] * sizes_.D;
    }
    passes_.gather(as_pass(x), sizes_.D, token, count, product_rows(count), as_pass(s.x), operand_width(sizes_.D));
    return s.x;
  }

  /// From x to the hidden columns [h, h + width) after activation and dropout, in `after` [rows, ld].
  void first_product(int64_t e, int64_t first, int64_t count, const T* x, int64_t h, int64_t width, Space& s, T* after,
                     int64_t ld) {
    const int64_t rows = product_rows(count), depth = operand_width(sizes_.D);
    for (int64_t half = 0; half < sizes_.halves; ++half) {
      multiply_blocks(rows, width, depth, x, depth, w1_.block(e, half, 0, h), kPackedColumns, w1_.block_stride(),
                      s.first[half], width, false);
    }
    const float* mask = dropout_tile(e, first, count, h, width, s);
    const HiddenTile tile{.rows = rows, .valid = count, .width = width, .ld = ld, .mask = mask};
    P* out = as_pass(after);
    if (call_.options.activation == Activation::kRelu) {
      passes_.bias_relu(tile, s.first[0], bias(e, 0, h), kept(first, 0, h), hidden_.size(1), out);
      return;
    }
    if (passes_.activate != nullptr) {
      const HiddenHalf<P> gate{s.first[0], bias(e, 0, h), kept(first, 0, h)};
      const bool gated = sizes_.halves == 2;
      const HiddenHalf<P> value = gated ? HiddenHalf<P>{s.first[1], bias(e, 1, h), kept(first, 1, h)} : gate;
      passes_.activate(tile, pass_function(call_.options.activation), gate, gated ? &value : nullptr, hidden_.size(1),
                       out);
      return;
    }
    for (int64_t half = 0; half < sizes_.halves; ++half) {
      passes_.bias_keep(tile, s.first[half], bias(e, half, h), kept(first, half, h), hidden_.size(1), s.pre[half]);
    }
    activate_tile(gate_function(call_.options.activation), s.pre[0], count * width, s.act);
    passes_.finish_hidden(tile, s.act, sizes_.halves == 2 ? s.pre[1] : nullptr, out);
  }

  /// c [rows, width] (ld D) = after · W2ᵀ for the output columns from d, slice by slice of the hidden layer; after [rows,
  /// ld] begins with hidden column `h`, the last of them is h_end.
  void second_product(int64_t e, int64_t rows, const T* after, int64_t ld, int64_t h, int64_t h_end, int64_t d,
                      int64_t width, float* c) const {
    for (const int64_t begin = h; h < h_end; h += kHiddenSlice) {
      const int64_t depth = operand_width(std::min(kHiddenSlice, h_end - h));
      multiply_blocks(rows, width, depth, after + h - begin, ld, w2_.block(e, 0, h, d), kPackedColumns,
                      w2_.block_stride(), c, sizes_.D, h > 0);
    }
  }

  const float* bias(int64_t e, int64_t half, int64_t h) const {
    const float* row = b1_.of(e);
    return row == nullptr ? nullptr : row + half * sizes_.H + h;
  }

  P* kept(int64_t first, int64_t half, int64_t h) {
    if (hidden_.size(0) == 0) return nullptr;
    return as_pass(hidden_.mutable_data_ptr<T>()) + first * hidden_.size(1) + half * sizes_.H + h;
  }

  const float* dropout_tile(int64_t e, int64_t first, int64_t count, int64_t h, int64_t width, Space& s) const {
    if (call_.options.dropout_p == 0) return nullptr;
    fill_expert_mask(rows_.token.data() + first, count, e, h, width, call_.options.dropout_p, call_.options.dropout_key,
                     s.mask);
    return s.mask;
  }

  /// The second product of some rows, bias and weight, into the output.
  void scatter(int64_t e, int64_t first, int64_t count, const float* second) {
    passes_.scatter_add(second, sizes_.D, b2_.of(e), weight_.data() + first, rows_.token.data() + first, count,
                        sizes_.D, sum_.mutable_data_ptr<float>());
  }

  void by_tokens() {
    const std::vector<int64_t> bounds = token_ranges(at::get_num_threads());
    const int64_t ranges = static_cast<int64_t>(bounds.size()) - 1;
    at::parallel_for(0, ranges, 1, [&](int64_t begin, int64_t end) {
      Space s = make_tile_space();
      for (int64_t i = begin; i < end; ++i) {
        for (const int64_t e : chosen_) {
          for_each_tile(row_of(e, bounds[static_cast<size_t>(i)]), row_of(e, bounds[static_cast<size_t>(i) + 1]),
                        kTileRows, [&](int64_t first, int64_t count) { one_tile(e, first, count, s); });
        }
      }
      release_block_gemm(x_.scalar_type());
    });
  }

  /// The first row of an expert that is of a token from `token` on.
  int64_t row_of(int64_t e, int64_t token) const {
    const auto row = rows_.token.begin();
    return std::lower_bound(row + rows_.first[static_cast<size_t>(e)], row + rows_.first[static_cast<size_t>(e) + 1],
                            token) -
           row;
  }

  /// Cuts the tokens into ranges of about as many rows each.
  std::vector<int64_t> token_ranges(int64_t count) const {
    std::vector<int64_t> bounds = {0};
    for (int64_t i = 1; i < count; ++i) {
      const auto at = std::lower_bound(rows_.token_first.begin(), rows_.token_first.end(), rows_.rows() * i / count);
      bounds.push_back(std::max<int64_t>(bounds.back(), at - rows_.token_first.begin()));
    }
    bounds.push_back(sizes_.T);
    return bounds;
  }

  void one_tile(int64_t e, int64_t first, int64_t count, Space& s) {
    const T* x = gathered(first, count, s);
    for (int64_t h = 0; h < sizes_.H; h += kHiddenSlice) {
      const int64_t width = std::min(kHiddenSlice, sizes_.H - h), ld = operand_width(width);
      first_product(e, first, count, x, h, width, s, s.after, ld);
      second_product(e, product_rows(count), s.after, ld, h, h + width, 0, sizes_.D, s.second);
    }
    scatter(e, first, count, s.second);
  }

  /// All threads, or one where there are so few bytes to move: LibTorch wakes all or none.
  static int64_t threads_for(double bytes) { return bytes < kWorthWaking ? 1 : at::get_num_threads(); }

  /// Calls work(chosen expert's number, column, width, space) for every chosen expert and block of 64 out of `columns`
  /// columns of `depth` weights; each thread has about as much to do.
  template <class Work>
  void for_each_block(int64_t columns, int64_t depth, const Work& work) {
    constexpr double kRowsInARead = 8;  // whose products take about as long as reading the weights from the third cache
    const int64_t blocks = ceil_div(columns, kPackedColumns), experts = std::ssize(chosen_);
    std::vector<double> before = {0};  // what the experts before each cost, in bytes read
    int64_t most = 0;
    for (const int64_t e : chosen_) {
      const double bytes = static_cast<double>(columns) * static_cast<double>(depth) * sizeof(T);
      before.push_back(before.back() + bytes * (1 + static_cast<double>(rows_.rows_of(e)) / kRowsInARead));
      most = std::max(most, rows_.rows_of(e));
    }
    const int64_t threads = threads_for(before.back());
    const auto first_block = [&](int64_t thread) {
      if (thread == threads) return experts * blocks;
      const double at = before.back() * static_cast<double>(thread) / static_cast<double>(threads);
      const auto next = std::upper_bound(before.begin() + 1, before.end(), at);
      if (next == before.end()) return experts * blocks;
      const double within = (at - *(next - 1)) / (*next - *(next - 1));
      return (next - before.begin() - 1) * blocks + static_cast<int64_t>(within * static_cast<double>(blocks));
    };
    at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      Space s = make_space(round_up(std::min(most, kTileRows), 8), kPackedColumns);
      for (int64_t i = first_block(begin), last = first_block(end); i < last; ++i) {
        const int64_t column = i % blocks * kPackedColumns;
        work(static_cast<size_t>(i / blocks), column, std::min(kPackedColumns, columns - column), s);
      }
      release_block_gemm(x_.scalar_type());
    });
  }

  void by_columns() {
    const int64_t D = sizes_.D, ld = operand_width(sizes_.H);
    // Where each chosen expert's rows begin, behind those of the ones before as the products fill them up.
    std::vector<int64_t> start = {0};
    for (const int64_t e : chosen_) start.push_back(start.back() + product_rows(rows_.rows_of(e)));
    const at::Tensor x = gather_all(start), after = at::empty({start.back(), ld}, x.options()),
                     second = at::empty({start.back(), D}, sum_.options());
    const int64_t ld_x = x.size(1);
    const T* rows = x.const_data_ptr<T>();
    T* hidden = after.mutable_data_ptr<T>();
    float* out = second.mutable_data_ptr<float>();
    const auto for_tiles = [&](size_t i, const auto& work) {
      const int64_t e = chosen_[i], first = rows_.first[static_cast<size_t>(e)];
      for_each_tile(first, first + rows_.rows_of(e), kTileRows,
                    [&](int64_t row, int64_t count) { work(e, row, count, start[i] + row - first); });
    };
    for_each_block(sizes_.H, sizes_.halves * D, [&](size_t i, int64_t h, int64_t width, Space& s) {
      for_tiles(i, [&](int64_t e, int64_t row, int64_t count, int64_t at) {
        first_product(e, row, count, rows + at * ld_x, h, width, s, hidden + at * ld + h, ld);
      });
    });
    for_each_block(D, sizes_.H, [&](size_t i, int64_t d, int64_t width, Space&) {
      for_tiles(i, [&](int64_t e, int64_t, int64_t count, int64_t at) {
        second_product(e, product_rows(count), hidden + at * ld, ld, 0, sizes_.H, d, width, out + at * D + d);
      });
    });
    scatter_all(start, out);
  }

  /// [start.back(), D], for bf16 D rounded up to even: the chosen experts' rows of x, each one's from start[its number] on.
  at::Tensor gather_all(const std::vector<int64_t>& start) const {
    const int64_t ld = operand_width(sizes_.D), experts = std::ssize(chosen_);
    at::Tensor out = at::empty({start.back(), ld}, x_.options());
    const int64_t threads = threads_for(static_cast<double>(out.nbytes()));
    at::parallel_for(0, experts, ceil_div(experts, threads), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t e = chosen_[static_cast<size_t>(i)], first = rows_.first[static_cast<size_t>(e)];
        const int64_t count = rows_.rows_of(e), at = start[static_cast<size_t>(i)];
        passes_.gather(as_pass(x_.const_data_ptr<T>()), sizes_.D, rows_.token.data() + first, count,
                       product_rows(count), as_pass(out.mutable_data_ptr<T>() + at * ld), ld);
      }
    });
    return out;
  }

  /// The second products of all rows, each chosen expert's from start[its number] on, into the output.
  void scatter_all(const std::vector<int64_t>& start, const float* second) {
    const std::vector<int64_t> bounds = token_ranges(threads_for(static_cast<double>(start.back() * sizes_.D) * 4));
    at::parallel_for(0, std::ssize(bounds) - 1, 1, [&](int64_t begin, int64_t end) {
      const int64_t from = bounds[static_cast<size_t>(begin)], to = bounds[static_cast<size_t>(end)];
      for (size_t i = 0; i < chosen_.size(); ++i) {
        const int64_t e = chosen_[i], row = row_of(e, from);
        const int64_t at = start[i] + row - rows_.first[static_cast<size_t>(e)];
        scatter(e, row, row_of(e, to) - row, second + at * sizes_.D);
      }
    });
  }

  const MlpCall& call_;
  const MlpSizes sizes_;
  const RowPasses<P>& passes_ = row_passes<P>();
  const ExpertRows rows_;
  const std::vector<int64_t> chosen_;
  const at::Tensor x_;
  const std::vector<float> weight_;  // in the order of rows_
  const PackedExperts<T> w1_, w2_;
  const BiasRows b1_, b2_;
  at::Tensor hidden_, sum_;
};

}  // namespace

MlpForward moe_mlp_cpu_forward(const MlpCall& call, bool keep_hidden) {
  if (call.x.scalar_type() == at::kBFloat16) return Forward<c10::BFloat16>(call, keep_hidden).run();
  return Forward<float>(call, keep_hidden).run();
}

}  // namespace smoe
