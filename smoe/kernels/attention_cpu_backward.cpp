#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <array>

#include "smoe/kernels/attention_cpu.h"

namespace smoe::attention_cpu {
namespace {

/// Rows [queries, row] as a first operand and as a second one. In fp32 they are both as they stand in a buffer.
template <class T>
class Operands;

template <>
class Operands<float> {
 public:
  Operands(const Shape& shape, Buffer<float>& rows) : ld_(shape.row()), rows_(rows) {}

  /// Rows r, even, and r + 1, the first `width` columns; `first` tells whether first() will be asked for.
  void put(int64_t r, const RowPart& even, const RowPart& odd, int64_t width, bool /*first*/) {
    for (const RowPart* part : {&even, &odd}) {
      float* row = rows_.data() + r++ * ld_;
      if (part->data != row + part->first) std::copy_n(part->data, part->count, row + part->first);
      clear_around(row, part->first, part->count, width);
    }
  }
  const float* first() const { return rows_.data(); }
  const float* second(int64_t column) const { return rows_.data() + column; }

 private:
  int64_t ld_;
  Buffer<float>& rows_;
};

template <>
class Operands<c10::BFloat16> {
 public:
  Operands(const Shape& shape, Buffer<float>& /*rows*/)
      : ld_(shape.row()), first_(static_cast<size_t>(kQueries * ld_)), pairs_(first_.size()) {}

  void put(int64_t r, const RowPart& even, const RowPart& odd, int64_t width, bool first) {
    attention_rows<Bf16>().put_pair(even, odd, width, first ? as_pass(first_.data()) + r * ld_ : nullptr, ld_,
                                    as_pass(pairs_.data()) + r * ld_);
  }
  const c10::BFloat16* first() const { return first_.data(); }
  const c10::BFloat16* second(int64_t column) const { return pairs_.data() + 2 * column; }

 private:
  int64_t ld_;
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
        of_probability_(scores_.content.size()),
        probability_(shape, scores_.content),
        of_score_(shape, of_probability_),
        of_relative_(shape, scores_.relative),
        of_output_(scores_.with_u.size()),
        turned_(static_cast<size_t>(shape.wide * kQueries)),
        of_keys_(static_cast<size_t>(shape.columns() * shape.P * kColumns)),
        of_values_(of_keys_.size()),
        by_keys_(static_cast<size_t>(kQueries * shape.heads() * kColumns)),
        by_places_(by_keys_.size()),
        row_(static_cast<size_t>(shape.P)) {}

  /// `of_places` [columns, P, 64] takes the gradient of the places.
  void operator()(int64_t b, int64_t n, const Packed<T>& places, float* of_places) {
    const int64_t stride = 2 * s_.N * s_.P;
    pack(s_, in_.keys(s_, b, n), stride, Pack::kBoth, keys_);
    pack(s_, in_.values(s_, b, n), stride, Pack::kTransposed, values_);
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
      prefetch_rows(to_.query + output_at(b, n, first), s_.N * s_.P, block.rows, s_.P);
      times_rows(s_, block.padded, of_score_.first(), keys_.rows.data(), block.key_begin, block.key_end,
                 by_keys_.data());
      times_rows(s_, block.padded, of_relative_.first(), places.rows.data(), block.place_begin, block.place_end,
                 by_places_.data());
      store_queries(block, b, n, of_u, of_v);
    }
    store_keys(b, n);
  }

 private:
  int64_t output_at(int64_t b, int64_t n, int64_t query) const { return ((b * s_.S + query) * s_.N + n) * s_.P; }

  /// From the outputs' gradient to those of the scores, of one block.
  void differentiate_scores(const Block& block, int64_t b, int64_t n, const Packed<T>& places) {
    const int64_t width = s_.row();
    scores_.compute(s_, block, in_, b, n, keys_.transposed.data(), places.transposed.data());
    std::fill(of_output_.begin(), of_output_.end(), T(0));
    const int64_t at = output_at(b, n, block.first), stride = s_.N * s_.P;
    prefetch_rows(out_ + at, stride, block.rows, s_.P);
    prefetch_rows(gradient_ + at, stride, block.rows, s_.P);
    for (int64_t r = 0; r < block.rows; ++r) {
      const T* gradient = gradient_ + at + r * stride;
      std::copy_n(gradient, s_.P, of_output_.data() + r * s_.wide);
      // Σ_j of p · its gradient, which is the output times its own.
      delta_[static_cast<size_t>(r)] = rows_of_scores_.dot(as_pass(out_ + at + r * stride), as_pass(gradient), s_.P);
    }
    Scores<T>::product(s_, block.padded, of_output_.data(), values_.transposed.data(), block.key_begin, block.key_end,
                       of_probability_.data());
    for (int64_t r = 0; r < block.padded; r += 2) {
      std::array<RowPart, 2> probability{}, of_score{}, of_relative{};  // a row of padding has nothing
      for (int64_t i = 0; i < 2 && r + i < block.rows; ++i) {
        const Span span(s_, block, r + i);
        float* content = scores_.content.data() + (r + i) * width + span.key;
        float* of_probability = of_probability_.data() + (r + i) * width + span.key;
        const int64_t query = block.first + r + i;
        rows_of_scores_.backward(content, scores_.relative.data() + (r + i) * width + span.place, of_probability,
                                 masks_.of(b, n, query), span.count, s_.scale, log_sum_[(n * s_.B + b) * s_.S + query],
                                 delta_[static_cast<size_t>(r + i)]);
        probability[static_cast<size_t>(i)] = {content, span.key, span.count};
        of_score[static_cast<size_t>(i)] = {of_probability, span.key, span.count};
        of_relative[static_cast<size_t>(i)] = {of_probability, span.place, span.count};
      }
      probability_.put(r, probability[0], probability[1], block.keys(), /*first=*/false);
      of_relative_.put(r, of_relative[0], of_relative[1], block.places(), /*first=*/true);
      of_score_.put(r, of_score[0], of_score[1], block.keys(), /*first=*/true);
    }
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
      store_row(row_.data(), s_.P, to_.query + output_at(b, n, block.first + r));
    }
  }

  void store_keys(int64_t b, int64_t n) {
    T* to = to_.key_value + (b * s_.L * 2 * s_.N + n) * s_.P;
    store_transposed(s_, of_keys_.data(), rows_, to, 2 * s_.N * s_.P);
    store_transposed(s_, of_values_.data(), rows_, to + s_.N * s_.P, 2 * s_.N * s_.P);
  }

  const Shape& s_;
  const AttentionRows<PassOf<T>>& rows_of_scores_ = attention_rows<PassOf<T>>();
  const Inputs<T>& in_;
  const T* out_;
  const float* log_sum_;
  const T* gradient_;
  const Gradients<T>& to_;
  Scores<T> scores_;
  MaskRows masks_;
  Buffer<float> of_probability_;  // [queries, row]
  std::array<float, kQueries> delta_;
  Operands<T> probability_, of_score_, of_relative_;
  Buffer<T> of_output_, turned_;
  Packed<T> keys_, values_;
  Buffer<float> of_keys_, of_values_, by_keys_, by_places_, row_, rows_;
};

}  // namespace

template <class T>
void backward(const Shape& s, const Inputs<T>& in, const T* position, const T* out, const float* log_sum,
              const T* gradient, const Gradients<T>& to) {
  const int64_t part = s.columns() * s.P * kColumns;
  std::vector<Packed<T>> places(static_cast<size_t>(s.N));
  at::parallel_for(0, s.N, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      pack(s, position + n * s.P, s.N * s.P, Pack::kBoth, places[static_cast<size_t>(n)]);
    }
  });
  // Each sequence adds up its own gradient of the places: how many threads there are must not show in the sum.
  const at::Tensor of_places = at::empty({s.N * s.B, part}, at::kFloat);
  float* sums = of_places.mutable_data_ptr<float>();
  at::parallel_for(0, s.N * s.B, 1, [&](int64_t begin, int64_t end) {
    HeadBackward<T> head(s, in, out, log_sum, gradient, to);
    for (int64_t task = begin; task < end; ++task) {
      head(task % s.B, task / s.B, places[static_cast<size_t>(task / s.B)], sums + task * part);
    }
    release_block_gemm(c10::CppTypeToScalarType<T>::value);
  });
  at::parallel_for(0, s.N, 1, [&](int64_t begin, int64_t end) {
    Buffer<float> rows;
    for (int64_t n = begin; n < end; ++n) {
      float* sum = sums + n * s.B * part;
      for (int64_t b = 1; b < s.B; ++b) {
        for (int64_t i = 0; i < part; ++i) sum[i] += sum[b * part + i];
      }
      store_transposed(s, sum, rows, to.position + n * s.P, s.N * s.P);
    }
  });
}

template void backward<float>(const Shape&, const Inputs<float>&, const float*, const float*, const float*,
                              const float*, const Gradients<float>&);
template void backward<c10::BFloat16>(const Shape&, const Inputs<c10::BFloat16>&, const c10::BFloat16*,
                                      const c10::BFloat16*, const float*, const c10::BFloat16*,
                                      const Gradients<c10::BFloat16>&);

}  // namespace smoe::attention_cpu
