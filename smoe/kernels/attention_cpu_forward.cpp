#include <ATen/Parallel.h>

#include "smoe/kernels/attention_cpu.h"

namespace smoe::attention_cpu {
namespace {

/// Makes the probabilities a first operand: they are one already, or are rounded.
inline const float* operand(const Buffer<float>& content, const Shape&, const Block&, Buffer<float>&) {
  return content.data();
}
inline const c10::BFloat16* operand(const Buffer<float>& content, const Shape& shape, const Block& block,
                                    Buffer<c10::BFloat16>& rounded) {
  for (int64_t r = 0; r < block.padded; ++r) {
    store_row(content.data() + r * shape.row(), block.keys(), rounded.data() + r * shape.row());
  }
  return rounded.data();
}

}  // namespace

template <class T>
void forward(const Shape& shape, const Inputs<T>& in, const T* position, T* out, float* log_sum) {
  const int64_t stride = 2 * shape.N * shape.P;
  std::vector<Places<T>> places(static_cast<size_t>(shape.N));
  at::parallel_for(0, shape.N, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      pack_transposed(shape, position + n * shape.P, shape.N * shape.P, places[static_cast<size_t>(n)].transposed);
    }
  });
  at::parallel_for(0, shape.N * shape.B, 1, [&](int64_t begin, int64_t end) {
    const AttentionRows& rows = attention_rows();
    Scores<T> scores(shape);
    MaskRows masks(shape);
    Buffer<T> keys, values, rounded(scores.content.size());
    Buffer<float> mixed(static_cast<size_t>(kQueries * shape.heads() * kColumns));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / shape.B, b = task % shape.B;
      pack_transposed(shape, in.keys(shape, b, n), stride, keys);
      pack_rows(shape, in.values(shape, b, n), stride, values);
      for (int64_t first = 0; first < shape.S; first += kQueries) {
        const Block block(shape, first);
        scores.compute(shape, block, in, b, n, keys.data(), places[static_cast<size_t>(n)].transposed.data());
        for (int64_t r = 0; r < block.rows; ++r) {
          const Span span(shape, block, r);
          float* row = scores.content.data() + r * shape.row();
          log_sum[task * shape.S + first + r] = rows.softmax(
              row + span.key, scores.relative.data() + r * shape.row() + span.place, span.count, shape.scale);
          const float* mask = masks.of(b, n, first + r);
          if (mask != nullptr) rows.multiply(row + span.key, mask, span.count);
          clear_around(row, span.key, span.count, block.keys());
        }
        if (block.padded > block.rows)
          std::fill_n(scores.content.data() + block.rows * shape.row(), block.keys(), 0.0f);
        times_rows(shape, block.padded, operand(scores.content, shape, block, rounded), values.data(), block.key_begin,
                   block.key_end, mixed.data());
        for (int64_t r = 0; r < block.rows; ++r) {
          store_row(mixed.data() + r * shape.heads() * kColumns, shape.P,
                    out + ((b * shape.S + first + r) * shape.N + n) * shape.P);
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
