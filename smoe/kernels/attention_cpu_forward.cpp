#include <ATen/Parallel.h>

#include <array>
#include <cmath>

#include "smoe/kernels/attention_cpu.h"

namespace smoe::attention_cpu {
namespace {

/// Where a row's exponentials go: in place of the scores, or rounded beside them.
inline float* operand(Buffer<float>& content, Buffer<float>&) { return content.data(); }
inline c10::BFloat16* operand(Buffer<float>& content, Buffer<c10::BFloat16>& rounded) {
  rounded.resize(content.size());
  return rounded.data();
}

}  // namespace

template <class T>
void forward(const Shape& shape, const Inputs<T>& in, const T* position, T* out, float* log_sum) {
  const int64_t stride = 2 * shape.N * shape.P;
  std::vector<Packed<T>> places(static_cast<size_t>(shape.N));
  at::parallel_for(0, shape.N, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      pack(shape, position + n * shape.P, shape.N * shape.P, Pack::kTransposed, places[static_cast<size_t>(n)]);
    }
  });
  at::parallel_for(0, shape.N * shape.B, 1, [&](int64_t begin, int64_t end) {
    const AttentionRows<PassOf<T>>& rows = attention_rows<PassOf<T>>();
    Scores<T> scores(shape);
    MaskRows masks(shape);
    Packed<T> keys, values;
    Buffer<T> rounded;
    T* weights = operand(scores.content, rounded);
    Buffer<float> mixed(static_cast<size_t>(kQueries * shape.heads() * kColumns));
    std::array<float, kQueries> sums;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / shape.B, b = task % shape.B;
      pack(shape, in.keys(shape, b, n), stride, Pack::kTransposed, keys);
      pack(shape, in.values(shape, b, n), stride, Pack::kRows, values);
      for (int64_t first = 0; first < shape.S; first += kQueries) {
        const Block block(shape, first);
        scores.compute(shape, block, in, b, n, keys.transposed.data(),
                       places[static_cast<size_t>(n)].transposed.data());
        for (int64_t r = 0; r < block.rows; ++r) {
          const Span span(shape, block, r);
          T* row = weights + r * shape.row();
          const RowExponentials of_row = rows.exponentials(
              scores.content.data() + r * shape.row() + span.key, scores.relative.data() + r * shape.row() + span.place,
              masks.of(b, n, first + r), span.count, shape.scale, as_pass(row + span.key));
          log_sum[task * shape.S + first + r] = of_row.top + std::log(of_row.sum);
          sums[static_cast<size_t>(r)] = of_row.sum;
          clear_around(row, span.key, span.count, block.keys());
        }
        if (block.padded > block.rows) std::fill_n(weights + block.rows * shape.row(), block.keys(), T(0));
        T* to = out + ((b * shape.S + first) * shape.N + n) * shape.P;
        prefetch_rows(to, shape.N * shape.P, block.rows, shape.P);
        times_rows(shape, block.padded, weights, values.rows.data(), block.key_begin, block.key_end, mixed.data());
        for (int64_t r = 0; r < block.rows; ++r) {
          store_row(mixed.data() + r * shape.heads() * kColumns, shape.P, to + r * shape.N * shape.P,
                    1 / sums[static_cast<size_t>(r)]);
        }
      }
    }
    release_block_gemm(c10::CppTypeToScalarType<T>::value);
  });
}

template void forward<float>(const Shape&, const Inputs<float>&, const float*, float*, float*);
template void forward<c10::BFloat16>(const Shape&, const Inputs<c10::BFloat16>&, const c10::BFloat16*, c10::BFloat16*,
                                     float*);

}  // namespace smoe::attention_cpu
