// What the parts of attention's CPU body share: one head of one sequence at a time, its queries in blocks, or the only one.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

#include "smoe/kernels/attention.h"
#include "smoe/kernels/attention_rows.h"
#include "smoe/kernels/block_tiles.h"
#include "smoe/kernels/dropout_rows.h"

namespace smoe::attention_cpu {

constexpr int64_t kQueries = 64;  // of a block; even
constexpr int64_t kColumns = 64;  // keys or places of a block

inline int64_t blocks_of(int64_t count) { return (count + kColumns - 1) / kColumns; }

/// The sizes of a call.
struct Shape {
  int64_t B, S, L, N, P;
  int64_t wide;  ///< P, made even for bf16, whose second operands have their rows in pairs
  int64_t window;
  float scale;
  double dropout;
  uint64_t dropout_key;

  int64_t columns() const { return blocks_of(L); }
  int64_t heads() const { return (P + kColumns - 1) / kColumns; }
  /// The width of a buffer of scores: off a power of two, lest its rows fall into the same lines of the cache.
  int64_t row() const { return columns() * kColumns + 32; }

  int64_t first_key(int64_t query) const { return window < 0 ? 0 : std::max<int64_t>(0, query + L - S - window); }
  int64_t keys(int64_t query) const { return query + L - S + 1 - first_key(query); }
};

/// A block of queries and the blocks of keys and of places that any of them sees.
struct Block {
  Block(const Shape& shape, int64_t first_query)
      : first(first_query), rows(std::min(kQueries, shape.S - first_query)), padded((rows + 1) / 2 * 2) {
    const int64_t last = first + rows - 1;
    key_begin = shape.first_key(first) / kColumns;
    key_end = blocks_of(last + shape.L - shape.S + 1);
    place_begin = (shape.first_key(last) + shape.S - 1 - last) / kColumns;
    place_end = shape.columns();
  }

  int64_t keys() const { return (key_end - key_begin) * kColumns; }
  int64_t places() const { return (place_end - place_begin) * kColumns; }

  int64_t first, rows, padded;  ///< padded: rows, even
  int64_t key_begin, key_end, place_begin, place_end;
};

/// What a query sees, as ranges of the columns of its block's buffers.
struct Span {
  Span(const Shape& shape, const Block& block, int64_t r) {
    const int64_t query = block.first + r, from = shape.first_key(query);
    key = from - block.key_begin * kColumns;
    place = from + shape.S - 1 - query - block.place_begin * kColumns;
    count = shape.keys(query);
  }

  int64_t key, place, count;
};

/// Sets all but [first, first + count) of a row of `width` numbers to zero.
template <class T>
void clear_around(T* row, int64_t first, int64_t count, int64_t width) {
  std::fill(row, row + first, T(0));
  std::fill(row + first + count, row + width, T(0));
}

/// out [count] = T(scale · in).
template <class T>
void store_row(const float* in, int64_t count, T* out, float scale = 1) {
  attention_rows<PassOf<T>>().put_scaled(in, scale, count, as_pass(out));
}

/// Asks for so many rows of a head that will be read or written soon: they lie apart, which the processor does not foresee.
template <class T>
void prefetch_rows(const T* row, int64_t stride, int64_t rows, int64_t width) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t r = 0; r < rows; ++r, row += stride) {
    for (int64_t i = 0; i < width; i += kLine) __builtin_prefetch(row + i, /*rw=*/0, /*locality=*/2);
  }
}

/// Memory that starts on a line of the cache, as the microkernels' loads want it.
template <class T>
struct LineAllocator {
  using value_type = T;  // NOLINT(readability-identifier-naming): the name that allocators have
  LineAllocator() = default;
  template <class U>
  explicit LineAllocator(const LineAllocator<U>&) {}
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* memory, size_t) { ::operator delete(memory, std::align_val_t{64}); }
  bool operator==(const LineAllocator&) const = default;
};

template <class T>
using Buffer = std::vector<T, LineAllocator<T>>;

/// Rows [L, P] of keys, values or places as second operands.
template <class T>
struct Packed {
  Buffer<T> transposed;  ///< their transpose [columns, wide, 64], the rows by 64
  Buffer<T> rows;        ///< themselves in squares [columns, heads, 64, 64], zeros where there is nothing
};
enum class Pack { kTransposed, kRows, kBoth };

/// `matrix` [L, P], its rows `stride` apart, 64 of them at a time, while the next are on their way.
template <class T>
void pack(const Shape& shape, const T* matrix, int64_t stride, Pack what, Packed<T>& out) {
  constexpr int64_t kSquare = kColumns * kColumns;
  const RowPasses<PassOf<T>>& passes = row_passes<PassOf<T>>();
  if (what != Pack::kRows) out.transposed.resize(static_cast<size_t>(shape.columns() * shape.wide * kColumns));
  if (what != Pack::kTransposed) out.rows.resize(static_cast<size_t>(shape.columns() * shape.heads() * kSquare));
  for (int64_t first = 0; first < shape.L; first += kColumns) {
    const int64_t rows = std::min(kColumns, shape.L - first), next = first + rows;
    const T* tile = matrix + first * stride;
    prefetch_rows(matrix + next * stride, stride, std::min(kColumns, shape.L - next), shape.P);
    if (what != Pack::kRows) {
      passes.pack(tile, /*in_is_t=*/true, shape.P, rows, 1, stride,
                  as_pass(out.transposed.data() + first * shape.wide));
    }
    for (int64_t p = 0; what != Pack::kTransposed && p < shape.P; p += kColumns) {
      T* square = out.rows.data() + (first / kColumns * shape.heads() + p / kColumns) * kSquare;
      if (rows < kColumns) std::fill_n(square, kSquare, T(0));
      passes.pack(tile + p, /*in_is_t=*/true, rows, std::min(kColumns, shape.P - p), stride, 1, as_pass(square));
    }
  }
}

/// 0, 1, 2, … for passes that gather rows, of which here are all, in order.
inline const int32_t* in_order(int64_t count) {
  static thread_local std::vector<int32_t> rows;
  for (int64_t i = std::ssize(rows); i < count; ++i) rows.push_back(static_cast<int32_t>(i));
  return rows.data();
}

/// in [rows, columns] → out [columns, rows].
template <class T>
void transpose(const T* in, int64_t rows, int64_t columns, T* out) {
  row_passes<PassOf<T>>().gather_transposed(as_pass(in), columns, in_order(rows), nullptr, rows, rows, as_pass(out),
                                            nullptr, nullptr);
}

/// Rows of `sum` [columns, P, 64], transposed, as rows [L, P] `stride` apart.
template <class T>
void store_transposed(const Shape& shape, const float* sum, Buffer<float>& rows, T* to, int64_t stride) {
  rows.resize(static_cast<size_t>(kColumns * shape.P));
  for (int64_t first = 0; first < shape.L; first += kColumns, to += kColumns * stride) {
    const int64_t count = std::min(kColumns, shape.L - first);
    prefetch_rows(to, stride, count, shape.P);
    transpose(sum + first * shape.P, shape.P, kColumns, rows.data());
    for (int64_t r = 0; r < count; ++r) store_row(rows.data() + r * shape.P, shape.P, to + r * stride);
  }
}

/// The inputs as pointers.
template <class T>
struct Inputs {
  const T *query, *key_value;
  int64_t key_value_stride;  // between sequences
  const float *u, *v;        // [N, P]

  const T* queries(const Shape& s, int64_t b, int64_t n, int64_t i) const {
    return query + ((b * s.S + i) * s.N + n) * s.P;
  }
  const T* keys(const Shape& s, int64_t b, int64_t n) const { return key_value + b * key_value_stride + n * s.P; }
  const T* values(const Shape& s, int64_t b, int64_t n) const { return keys(s, b, n) + s.N * s.P; }
};

/// Queries of a block plus either bias, and the scores that come of them.
template <class T>
struct Scores {
  explicit Scores(const Shape& shape)
      : with_u(static_cast<size_t>(kQueries * shape.wide)),
        with_v(with_u.size()),
        content(static_cast<size_t>(kQueries * shape.row())),
        relative(content.size()),
        sum(static_cast<size_t>(shape.P)) {}

  void compute(const Shape& shape, const Block& block, const Inputs<T>& in, int64_t b, int64_t n, const T* keys,
               const T* places) {
    prefetch_rows(in.queries(shape, b, n, block.first), shape.N * shape.P, block.rows, shape.P);
    std::fill(with_u.begin(), with_u.end(), T(0));
    std::fill(with_v.begin(), with_v.end(), T(0));
    for (int64_t r = 0; r < block.rows; ++r) {
      const T* query = in.queries(shape, b, n, block.first + r);
      for (int64_t p = 0; p < shape.P; ++p)
        sum[static_cast<size_t>(p)] = static_cast<float>(query[p]) + in.u[n * shape.P + p];
      store_row(sum.data(), shape.P, with_u.data() + r * shape.wide);
      for (int64_t p = 0; p < shape.P; ++p)
        sum[static_cast<size_t>(p)] = static_cast<float>(query[p]) + in.v[n * shape.P + p];
      store_row(sum.data(), shape.P, with_v.data() + r * shape.wide);
    }
    product(shape, block.padded, with_u.data(), keys, block.key_begin, block.key_end, content.data());
    product(shape, block.padded, with_v.data(), places, block.place_begin, block.place_end, relative.data());
  }

  /// out [rows, blocks · 64] = a [rows, wide] · the blocks [begin, end) of a packed transpose.
  static void product(const Shape& shape, int64_t rows, const T* a, const T* transposed, int64_t begin, int64_t end,
                      float* out) {
    for (int64_t block = begin; block < end; ++block) {
      block_gemm(rows, kColumns, shape.wide, a, shape.wide, transposed + block * shape.wide * kColumns, kColumns,
                 out + (block - begin) * kColumns, shape.row(), false);
    }
  }

  Buffer<T> with_u, with_v;
  Buffer<float> content, relative;  // [queries, row]
  Buffer<float> sum;                // a query plus a bias
};

/// out [rows, heads · 64] = a [rows, ·] · the squares [begin, end) of packed rows.
template <class T>
void times_rows(const Shape& shape, int64_t rows, const T* a, const T* squares, int64_t begin, int64_t end,
                float* out) {
  const int64_t heads = shape.heads(), width = heads * kColumns;
  for (int64_t p = 0; p < heads; ++p) {
    for (int64_t block = begin; block < end; ++block) {
      block_gemm(rows, kColumns, kColumns, a + (block - begin) * kColumns, shape.row(),
                 squares + (block * heads + p) * kColumns * kColumns, kColumns, out + p * kColumns, width,
                 block > begin);
    }
  }
}

/// The dropout masks of rows, by the rule of kernels/dropout.h over [N, B, S, L].
class MaskRows {
 public:
  explicit MaskRows(const Shape& shape)
      : shape_(shape), rule_(shape.dropout, shape.dropout_key), mask_(static_cast<size_t>(shape.L) + 4) {}

  /// Of the keys that a query sees; null without dropout.
  const float* of(int64_t b, int64_t n, int64_t query) {
    if (shape_.dropout == 0) return nullptr;
    const int64_t first = ((n * shape_.B + b) * shape_.S + query) * shape_.L + shape_.first_key(query);
    fill_dropout(rule_, 0, first / 4 * 4, shape_.keys(query) + first % 4, mask_.data());
    return mask_.data() + first % 4;
  }

 private:
  const Shape& shape_;
  DropoutRule rule_;
  Buffer<float> mask_;
};

/// out [B, S, N·P] and log_sum [N, B, S].
template <class T>
void forward(const Shape& shape, const Inputs<T>& in, const T* position, T* out, float* log_sum);

/// The same for S = 1.
template <class T>
void decode(const Shape& shape, const Inputs<T>& in, const T* position, T* out, float* log_sum);

/// Where the gradients go; those of biases as sums over a head of a sequence [N, B, P].
template <class T>
struct Gradients {
  T *query, *key_value, *position;
  float *u, *v;
};

/// `out` and `log_sum` are what forward gave, `gradient` [B, S, N·P] is that of out.
template <class T>
void backward(const Shape& shape, const Inputs<T>& in, const T* position, const T* out, const float* log_sum,
              const T* gradient, const Gradients<T>& to);

}  // namespace smoe::attention_cpu
