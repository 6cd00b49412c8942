#include <ATen/Parallel.h>

#include "smoe/kernels/attention_cpu.h"

namespace smoe::attention_cpu {
namespace {

/// Rows [queries, row] of fp32 as a first operand and as a second one; in fp32 they are both already.
template <class T>
class Operands;

template <>
class Operands<float> {
 public:
  explicit Operands(const Shape&) {}
  void take(const Shape&, const Buffer<float>& rows, int64_t /*padded*/, int64_t /*width*/, bool /*first*/) {
    rows_ = rows.data();
  }
  const float* first() const { return rows_; }
  const float* second(int64_t column) const { return rows_ + column; }

 private:
  const float* rows_ = nullptr;
};

template <>
class Operands<c10::BFloat16> {
 public:
  explicit Operands(const Shape& shape) : first_(static_cast<size_t>(kQueries * shape.row())), pairs_(first_.size()) {}
  void take(const Shape& shape, const Buffer<float>& rows, int64_t padded, int64_t width, bool first) {
    for (int64_t r = 0; r < padded; r += 2) {
      const float *even = rows.data() + r * shape.row(), *odd = even + shape.row();
      attention_rows().to_bf16_pairs(even, odd, width, reinterpret_cast<uint16_t*>(pairs_.data() + r * shape.row()));
      if (!first) continue;
      store_row(even, width, first_.data() + r * shape.row());
      store_row(odd, width, first_.data() + (r + 1) * shape.row());
    }
  }
  const c10::BFloat16* first() const { return first_.data(); }
  const c10::BFloat16* second(int64_t column) const { return pairs_.data() + 2 * column; }

 private:
  Buffer<c10::BFloat16> first_, pairs_;
};

/// The gradients of one head of one sequence. Those of keys, values and places are summed up transposed, in blocks
/// [columns, P, 64], so that the probabilities are a second operand as they are.
template <class T>
class HeadBackward {
 public:
  HeadBackward(const Shape& shape, const Inputs<T>& in, const T* out, const float* log_sum, const T* gradient,
               const Gradients<T>& to)
      : s_(shape),
        in_(in),
        out_(out),
        log_sum_(log_sum),
        gradient_(gradient),
        to_(to),
        scores_(shape),
        masks_(shape),
        probability_(shape),
        of_score_(shape),
        of_relative_(shape),
        of_probability_(scores_.content.size()),
        of_output_(scores_.with_u.size()),
        turned_(static_cast<size_t>(shape.wide * kQueries)),
        of_keys_(static_cast<size_t>(shape.columns() * shape.P * kColumns)),
        of_values_(of_keys_.size()),
        by_keys_(static_cast<size_t>(kQueries * shape.heads() * kColumns)),
        by_places_(by_keys_.size()),
        row_(static_cast<size_t>(shape.P)) {}

  /// `of_places` [columns, P, 64] takes the gradient of the places.
  void operator()(int64_t b, int64_t n, const Places<T>& places, float* of_places) {
    const int64_t stride = 2 * s_.N * s_.P;
    pack_transposed(s_, in_.keys(s_, b, n), stride, keys_);
    pack_transposed(s_, in_.values(s_, b, n), stride, values_);
    pack_rows(s_, in_.keys(s_, b, n), stride, key_rows_);
    std::fill(of_keys_.begin(), of_keys_.end(), 0.0f);
    std::fill(of_values_.begin(), of_values_.end(), 0.0f);
    std::fill_n(of_places, of_keys_.size(), 0.0f);
    float *of_u = to_.u + (n * s_.B + b) * s_.P, *of_v = to_.v + (n * s_.B + b) * s_.P;
    std::fill_n(of_u, s_.P, 0.0f);
    std::fill_n(of_v, s_.P, 0.0f);
    for (int64_t first = 0; first < s_.S; first += kQueries) {
      const Block block(s_, first);
      differentiate_scores(block, b, n, places);
      transpose(of_output_.data(), block.padded, s_.wide, turned_.data());
      accumulate(block.padded, probability_, block.key_begin, block.key_end, of_values_.data());
      transpose(scores_.with_u.data(), block.padded, s_.wide, turned_.data());
      accumulate(block.padded, of_score_, block.key_begin, block.key_end, of_keys_.data());
      transpose(scores_.with_v.data(), block.padded, s_.wide, turned_.data());
      accumulate(block.padded, of_relative_, block.place_begin, block.place_end, of_places);
      times_rows(s_, block.padded, of_score_.first(), key_rows_.data(), block.key_begin, block.key_end,
                 by_keys_.data());
      times_rows(s_, block.padded, of_relative_.first(), places.rows.data(), block.place_begin, block.place_end,
                 by_places_.data());
      store_queries(block, b, n, of_u, of_v);
    }
    store_keys(b, n);
  }

 private:
  /// From the outputs' gradient to those of the scores, of one block.
  void differentiate_scores(const Block& block, int64_t b, int64_t n, const Places<T>& places) {
    const int64_t width = s_.row();
    scores_.compute(s_, block, in_, b, n, keys_.data(), places.transposed.data());
    std::fill(of_output_.begin(), of_output_.end(), T(0));
    for (int64_t r = 0; r < block.rows; ++r) {
      std::copy_n(gradient_ + ((b * s_.S + block.first + r) * s_.N + n) * s_.P, s_.P, of_output_.data() + r * s_.wide);
    }
    Scores<T>::product(s_, block.padded, of_output_.data(), values_.data(), block.key_begin, block.key_end,
                       of_probability_.data());
    for (int64_t r = 0; r < block.padded; ++r) {
      float *content = scores_.content.data() + r * width, *relative = scores_.relative.data() + r * width;
      float* of_probability = of_probability_.data() + r * width;
      Span span;  // of a row of padding: nothing
      if (r < block.rows) {
        span = Span(s_, block, r);
        const int64_t query = block.first + r, at = ((b * s_.S + query) * s_.N + n) * s_.P;
        float delta = 0;  // Σ_j of p · its gradient, which is the output times its own
        for (int64_t p = 0; p < s_.P; ++p) {
          delta += static_cast<float>(out_[at + p]) * static_cast<float>(gradient_[at + p]);
        }
        attention_rows().backward(content + span.key, relative + span.place, of_probability + span.key,
                                  masks_.of(b, n, query), span.count, s_.scale, log_sum_[(n * s_.B + b) * s_.S + query],
                                  delta);
      }
      clear_around(content, span.key, span.count, block.keys());
      clear_around(of_probability, span.key, span.count, block.keys());
      clear_around(relative, span.place, span.count, block.places());
    }
    probability_.take(s_, scores_.content, block.padded, block.keys(), /*first=*/false);
    of_score_.take(s_, of_probability_, block.padded, block.keys(), /*first=*/true);
    of_relative_.take(s_, scores_.relative, block.padded, block.places(), /*first=*/true);
  }

  /// sum [columns, P, 64] += turned [P, rows] · second [rows, blocks · 64].
  void accumulate(int64_t rows, const Operands<T>& second, int64_t begin, int64_t end, float* sum) {
    for (int64_t block = begin; block < end; ++block) {
      block_gemm(s_.P, kColumns, rows, turned_.data(), rows, second.second((block - begin) * kColumns), s_.row(),
                 sum + block * s_.P * kColumns, kColumns, true);
    }
  }

  void store_queries(const Block& block, int64_t b, int64_t n, float* of_u, float* of_v) {
    for (int64_t r = 0; r < block.rows; ++r) {
      const float *k = by_keys_.data() + r * s_.heads() * kColumns, *t = by_places_.data() + r * s_.heads() * kColumns;
      for (int64_t p = 0; p < s_.P; ++p) {
        row_[static_cast<size_t>(p)] = k[p] + t[p];
        of_u[p] += k[p];
        of_v[p] += t[p];
      }
      store_row(row_.data(), s_.P, to_.query + ((b * s_.S + block.first + r) * s_.N + n) * s_.P);
    }
  }

  void store_keys(int64_t b, int64_t n) {
    for (int64_t part = 0; part < 2; ++part) {
      for_each_row(s_, (part == 0 ? of_keys_ : of_values_).data(), rows_, [&](int64_t j, const float* row) {
        store_row(row, s_.P, to_.key_value + (((b * s_.L + j) * 2 + part) * s_.N + n) * s_.P);
      });
    }
  }

  const Shape& s_;
  const Inputs<T>& in_;
  const T* out_;
  const float* log_sum_;
  const T* gradient_;
  const Gradients<T>& to_;
  Scores<T> scores_;
  MaskRows masks_;
  Operands<T> probability_, of_score_, of_relative_;
  Buffer<float> of_probability_;  // [queries, row]
  Buffer<T> of_output_, turned_;
  Buffer<T> keys_, values_, key_rows_;
  Buffer<float> of_keys_, of_values_, by_keys_, by_places_, row_, rows_;
};

}  // namespace

template <class T>
void backward(const Shape& s, const Inputs<T>& in, const T* position, const T* out, const float* log_sum,
              const T* gradient, const Gradients<T>& to) {
  const int64_t part = s.columns() * s.P * kColumns;
  std::vector<Places<T>> places(static_cast<size_t>(s.N));
  at::parallel_for(0, s.N, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      Places<T>& of_head = places[static_cast<size_t>(n)];
      pack_transposed(s, position + n * s.P, s.N * s.P, of_head.transposed);
      pack_rows(s, position + n * s.P, s.N * s.P, of_head.rows);
    }
  });
  // Each sequence adds up its own gradient of the places: how many threads there are must not show in the sum.
  Buffer<float> of_places(static_cast<size_t>(s.N * s.B * part));
  at::parallel_for(0, s.N * s.B, 1, [&](int64_t begin, int64_t end) {
    HeadBackward<T> head(s, in, out, log_sum, gradient, to);
    for (int64_t task = begin; task < end; ++task) {
      head(task % s.B, task / s.B, places[static_cast<size_t>(task / s.B)], of_places.data() + task * part);
    }
    release_block_gemm(c10::CppTypeToScalarType<T>::value);
  });
  at::parallel_for(0, s.N, 1, [&](int64_t begin, int64_t end) {
    Buffer<float> rows;
    for (int64_t n = begin; n < end; ++n) {
      float* sum = of_places.data() + n * s.B * part;
      for (int64_t b = 1; b < s.B; ++b) {
        for (int64_t i = 0; i < part; ++i) sum[i] += sum[b * part + i];
      }
      for_each_row(s, sum, rows,
                   [&](int64_t t, const float* row) { store_row(row, s.P, to.position + (t * s.N + n) * s.P); });
    }
  });
}

template void backward<float>(const Shape&, const Inputs<float>&, const float*, const float*, const float*,
                              const float*, const Gradients<float>&);
template void backward<c10::BFloat16>(const Shape&, const Inputs<c10::BFloat16>&, const c10::BFloat16*,
                                      const c10::BFloat16*, const float*, const c10::BFloat16*,
                                      const Gradients<c10::BFloat16>&);

}  // namespace smoe::attention_cpu
