// The passes for processors with AVX-512 (F, BW, DQ, VL). The ones that a step spends time in are written by hand, with a
// square of sixteen rows and columns in the registers; they take widths that are multiples of sixteen (`activate` any), and
// any number of rows.
#include "smoe/kernels/hidden_activation_avx512.h"
#include "smoe/kernels/hidden_backward_avx512.h"
#include "smoe/kernels/row_passes_body.h"
#include "smoe/kernels/row_passes_levels.h"
#include "smoe/kernels/row_vectors_avx512.h"

namespace smoe {
namespace {

void transpose16(Square& square) {
  __m512 r[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_load_ps(square.at[i]);
  transpose(r);
  for (int i = 0; i < 16; ++i) _mm512_store_ps(square.at[i], r[i]);
}

inline void add_columns(const __m512 (&row)[16], float* column_sum) {
  __m512 sum = _mm512_setzero_ps();
  for (const __m512& each : row) sum = _mm512_add_ps(sum, each);
  add_to(column_sum, sum);
}

template <class T>
void gather_transposed_512(const T* x, int64_t width, const int32_t* token, const float* scale, int64_t valid,
                           int64_t rows, T* transposed, T* operand, float* column_sum) {
  if (width % kLanes != 0) {
    return gather_transposed(x, width, token, scale, valid, rows, transposed, operand, column_sum);
  }
  for (int64_t r = 0; r < rows; r += kLanes) {
    const int64_t kept = std::min(kLanes, rows - r), count = std::clamp<int64_t>(valid - r, 0, kLanes);
    for (int64_t c = 0; c < width; c += kLanes) {
      __m512 row[16];
      for (int64_t i = 0; i < kLanes; ++i) {
        // The same columns of the next rows, which the processor does not foresee: tokens are far apart.
        if (r + kLanes + i < valid) {
          _mm_prefetch(reinterpret_cast<const char*>(x + token[r + kLanes + i] * width + c), _MM_HINT_T0);
        }
        row[i] = i < count ? load16(x + token[r + i] * width + c) : _mm512_setzero_ps();
        if (scale != nullptr && i < count) row[i] = _mm512_mul_ps(row[i], _mm512_set1_ps(scale[r + i]));
      }
      if (column_sum != nullptr) add_columns(row, column_sum + c);
      for (__m512& each : row) each = to_stored(x, each);
      if (operand != nullptr) {
        store_operand16(row, kept, operand + c / kBlock * kBlock * rows + r * kBlock + operand_offset(x, c % kBlock),
                        kBlock);
      }
      if (transposed == nullptr) continue;
      transpose(row);
      for (int64_t l = 0; l < kLanes; ++l) store16(transposed + (c + l) * rows + r, first_lanes(kept), row[l]);
    }
  }
}

template <class T>
void bias_relu_512(const HiddenTile& given, const float* sum, const float* bias, T* kept, int64_t ld_kept, T* out) {
  const HiddenTile tile = given;  // a copy, which no store can change
  if (tile.width % kLanes != 0) return bias_relu(tile, sum, bias, kept, ld_kept, out);
  const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0f);
  const bool streams = can_stream(kept, ld_kept);
  for (int64_t r = 0; r < tile.valid; ++r) {
    for (int64_t h = 0; h < tile.width; h += kLanes) {
      __m512 pre = _mm512_loadu_ps(sum + r * tile.width + h);
      if (bias != nullptr) pre = _mm512_add_ps(pre, _mm512_loadu_ps(bias + h));
      const __m512 rounded_sum = to_stored(out, pre);
      // Not "at most zero" rather than "above zero", so that NaN stays; what is zeroed is the sum, or its rounded bits.
      const __mmask16 positive = _mm512_cmp_ps_mask(pre, zero, _CMP_NLE_UQ);
      __m512 stored = rounded_sum, keep = rounded_sum;
      if (tile.mask != nullptr) {
        const __m512 mask = _mm512_loadu_ps(tile.mask + r * tile.width + h), value = from_stored(out, rounded_sum);
        const __mmask16 drops = _mm512_cmp_ps_mask(mask, zero, _CMP_EQ_OQ);
        stored = to_stored(out, _mm512_mul_ps(value, mask));
        keep = _mm512_mask_mov_ps(keep, drops,
                                  to_stored(out, _mm512_sub_ps(_mm512_maskz_mul_ps(positive, value, zero), one)));
      }
      if (kept != nullptr) keep16(kept + r * ld_kept + h, streams, 0xFFFF, keep);
      store16(out + r * tile.ld + h, 0xFFFF, _mm512_maskz_mov_ps(positive, stored));
    }
  }
  _mm_sfence();  // streamed lines are seen by other threads only after it
}

template <class T>
void relu_backward_512(const HiddenTile& given, const float* through, const float* scale, const T* kept,
                       int64_t ld_kept, T* after, T* before, T* transposed, float* dot, float* column_sum) {
  const HiddenTile tile = given;
  if (tile.width % kLanes != 0) {
    return relu_backward(tile, through, scale, kept, ld_kept, after, before, transposed, dot, column_sum);
  }
  const HiddenOut<T> out{after, before, transposed, dot, column_sum};
  if (tile.kept_scale == 1) return relu_walk<false>(tile, through, scale, kept, ld_kept, out);
  relu_walk<true>(tile, through, scale, kept, ld_kept, out);
}

template <class T>
void finish_backward_512(const HiddenTile& given, const float* through, const float* after_in, const float* before_in,
                         T* after, T* before, T* transposed, float* dot, float* column_sum) {
  const HiddenTile tile = given;
  if (tile.width % kLanes != 0) {
    return finish_backward(tile, through, after_in, before_in, after, before, transposed, dot, column_sum);
  }
  finish_walk(tile, through, after_in, before_in, HiddenOut<T>{after, before, transposed, dot, column_sum});
}

template <class T>
void activate_512(const HiddenTile& tile, GateFunction function, const HiddenHalf<T>& gate, const HiddenHalf<T>* value,
                  int64_t ld_kept, T* out) {
  with_function(function,
                [&](auto constant) { activate_walk<T, decltype(constant)::value>(tile, gate, value, ld_kept, out); });
}

template <class T>
void activate_backward_512(const HiddenTile& given, GateFunction function, HiddenGradient which, const float* through,
                           const float* scale, const T* gate, const T* value, int64_t ld_kept, T* after, T* before,
                           T* transposed, float* dot, float* column_sum) {
  const HiddenTile tile = given;
  with_function(function, [&](auto constant) {
    activate_backward_walk<T, decltype(constant)::value>(tile, which, through, scale, gate, value, ld_kept,
                                                         {after, before, transposed, dot, column_sum});
  });
}

/// Four vectors at a time, so that their sums do not wait for each other.
template <class T>
void sum_rows_512(const float* const* rows, int64_t count, int64_t width, T* out) {
  constexpr int64_t kVectors = 4;
  int64_t c = 0;
  for (; c + kVectors * kLanes <= width; c += kVectors * kLanes) {
    __m512 sum[kVectors];
    for (__m512& each : sum) each = _mm512_setzero_ps();
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t v = 0; v < kVectors; ++v) sum[v] = _mm512_add_ps(sum[v], _mm512_loadu_ps(rows[i] + c + v * kLanes));
    }
    for (int64_t v = 0; v < kVectors; ++v) store16(out + c + v * kLanes, 0xFFFF, to_stored(out, sum[v]));
  }
  for (; c < width; c += kLanes) {
    const __mmask16 lanes = first_lanes(std::min(kLanes, width - c));
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < count; ++i) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, rows[i] + c));
    store16(out + c, lanes, to_stored(out, sum));
  }
}

template <class T>
void put_sums_512(const float* sum, int64_t rows, int64_t width, T* out, int64_t ld_out) {
  if (width % kLanes != 0 || !can_stream(out, ld_out)) return put_sums(sum, rows, width, out, ld_out);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; c += kLanes) {
      stream16(out + r * ld_out + c, to_stored(out, _mm512_loadu_ps(sum + r * width + c)));
    }
  }
  _mm_sfence();
}

/// A whole number of squares, of a matrix whose rows or columns stand in one piece: along those, where they are rows.
template <class T, class In>
void pack_512(const In* in, int64_t K, int64_t N, int64_t stride_k, int64_t stride_n, T* out) {
  const int64_t columns = stride_n == 1 ? N : kLanes;
  for (int64_t first = 0; first < N; first += columns) {
    for (int64_t k = 0; k < K; k += kLanes) {
      for (int64_t n = first; n < first + columns; n += kLanes) {
        const In* from = in + k * stride_k + n * stride_n;
        __m512 row[16];
        for (int64_t i = 0; i < kLanes; ++i) {
          row[i] = to_stored(out, load16(from + i * (stride_n == 1 ? stride_k : stride_n)));
        }
        if (stride_n != 1) transpose(row);
        T* block = out + n / kBlock * kBlock * K + operand_offset(out, n % kBlock);
        store_operand16(row, kLanes, block + k * kBlock, kBlock);
      }
    }
  }
}

template <class T>
void pack_512(const void* in, bool in_is_t, int64_t K, int64_t N, int64_t stride_k, int64_t stride_n, T* out) {
  if (K % kLanes != 0 || N % kLanes != 0 || (stride_k != 1 && stride_n != 1)) {
    return pack(in, in_is_t, K, N, stride_k, stride_n, out);
  }
  if (in_is_t) return pack_512(static_cast<const T*>(in), K, N, stride_k, stride_n, out);
  return pack_512(static_cast<const float*>(in), K, N, stride_k, stride_n, out);
}

/// To a line of the caches, which can then be written past them.
inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

template <bool Stream, class T, class In>
void pack_both_512(const In* in, int64_t rows, int64_t width, int64_t ld, T* forward, T* backward, int64_t stride) {
  for (int64_t first = 0; first < width; first += kBlock) {
    for (int64_t r = 0; r < rows; r += kLanes) {
      for (int64_t c = first; c < std::min(first + kBlock, width); c += kLanes) {
        __m512 square[16];
        for (int64_t i = 0; i < kLanes; ++i) square[i] = to_stored(forward, load16(in + (r + i) * ld + c));
        T* const of_itself = backward + first / kBlock * stride + r * kBlock + operand_offset(backward, c - first);
        store_operand16<Stream>(square, kLanes, of_itself, kBlock);
        transpose(square);
        store_operand16<Stream>(square, kLanes, forward + c * kBlock + operand_offset(forward, r), kBlock);
      }
    }
  }
}

template <class T>
void pack_both_512(const void* in, bool in_is_t, int64_t rows, int64_t width, int64_t ld, bool stream, T* forward,
                   T* backward, int64_t stride) {
  const auto from = [&](const auto* numbers) {
    if (!stream || !is_aligned(forward) || !is_aligned(backward)) {
      return pack_both_512<false>(numbers, rows, width, ld, forward, backward, stride);
    }
    pack_both_512<true>(numbers, rows, width, ld, forward, backward, stride);
    _mm_sfence();
  };
  in_is_t ? from(static_cast<const T*>(in)) : from(static_cast<const float*>(in));
}

template <class T>
RowPasses<T> passes_512() {
  RowPasses<T> passes = make_row_passes<T>();
  passes.gather_transposed = gather_transposed_512<T>;
  passes.bias_relu = bias_relu_512<T>;
  passes.relu_backward = relu_backward_512<T>;
  passes.finish_backward = finish_backward_512<T>;
  passes.activate = activate_512<T>;
  passes.activate_backward = activate_backward_512<T>;
  passes.sum_rows = sum_rows_512<T>;
  passes.put_sums = put_sums_512<T>;
  passes.pack = pack_512<T>;
  passes.pack_both = pack_both_512<T>;
  return passes;
}

}  // namespace

RowPassesLevel row_passes_avx512() { return {"avx512", passes_512<float>(), passes_512<Bf16>()}; }

}  // namespace smoe
