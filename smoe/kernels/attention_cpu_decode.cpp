// One query a sequence, as in generation: reading keys, values and places once is all the work there is, so nothing is packed.
#include <ATen/Parallel.h>

#include <cmath>

#include "smoe/kernels/attention_cpu.h"

namespace smoe::attention_cpu {
namespace {

/// Calls step(rows, number of the first) for [begin, end) of the rows that begin at `rows`, while the next are on their way.
template <class T, class Step>
void by_rows(const Shape& shape, const T* rows, int64_t stride, int64_t begin, int64_t end, const Step& step) {
  constexpr int64_t kRows = 64;
  for (int64_t first = begin; first < end; first += kRows) {
    const int64_t count = std::min(kRows, end - first), next = first + count;
    prefetch_rows(rows + next * stride, stride, std::min(kRows, end - next), shape.P);
    step(RowsApart<PassOf<T>>{as_pass(rows + first * stride), stride, count, shape.P}, first);
  }
}

}  // namespace

template <class T>
void decode(const Shape& shape, const Inputs<T>& in, const T* position, T* out, float* log_sum) {
  const int64_t stride = shape.N * shape.P, begin = shape.first_key(0), end = shape.L;
  at::parallel_for(0, shape.N * shape.B, 1, [&](int64_t first_task, int64_t last_task) {
    const AttentionRows<PassOf<T>>& passes = attention_rows<PassOf<T>>();
    MaskRows masks(shape);
    Buffer<float> content(static_cast<size_t>(shape.L)), relative(content.size());
    Buffer<float> with_u(static_cast<size_t>(shape.P)), with_v(with_u.size()), mixed(with_u.size());
    for (int64_t task = first_task; task < last_task; ++task) {
      const int64_t n = task / shape.B, b = task % shape.B;
      const T* query = in.queries(shape, b, n, 0);
      for (int64_t p = 0; p < shape.P; ++p) {
        const auto at = static_cast<size_t>(p);
        with_u[at] = static_cast<float>(query[p]) + in.u[n * shape.P + p];
        with_v[at] = static_cast<float>(query[p]) + in.v[n * shape.P + p];
      }
      by_rows(shape, in.keys(shape, b, n), 2 * stride, begin, end,
              [&](const auto& rows, int64_t first) { passes.dots(rows, with_u.data(), content.data() + first); });
      // The only query is the last place, so that place j is that of key j.
      by_rows(shape, position + n * shape.P, stride, begin, end,
              [&](const auto& rows, int64_t first) { passes.dots(rows, with_v.data(), relative.data() + first); });
      const RowExponentials of_row =
          attention_rows<float>().exponentials(content.data() + begin, relative.data() + begin, masks.of(b, n, 0),
                                               end - begin, shape.scale, content.data() + begin);
      log_sum[task] = of_row.top + std::log(of_row.sum);
      std::fill(mixed.begin(), mixed.end(), 0.0f);
      by_rows(shape, in.values(shape, b, n), 2 * stride, begin, end,
              [&](const auto& rows, int64_t first) { passes.add_rows(rows, content.data() + first, mixed.data()); });
      store_row(mixed.data(), shape.P, out + b * stride + n * shape.P, 1 / of_row.sum);
    }
  });
}

template void decode<float>(const Shape&, const Inputs<float>&, const float*, float*, float*);
template void decode<c10::BFloat16>(const Shape&, const Inputs<c10::BFloat16>&, const c10::BFloat16*, c10::BFloat16*,
                                    float*);

}  // namespace smoe::attention_cpu
