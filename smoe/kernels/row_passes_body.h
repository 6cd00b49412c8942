// The text of the passes, included once by each file that compiles it for an instruction set; `transpose16` is what that
// file brings along. Loops over sixteen lanes are written so that a compiler makes vectors of them.
#pragma once

#include "smoe/kernels/row_passes_square.h"

namespace smoe {
namespace {

template <class T>
void gather(const T* x, int64_t width, const int32_t* token, int64_t valid, int64_t rows, T* out, int64_t ld) {
  for (int64_t r = 0; r < valid; ++r) {
    std::memcpy(out + r * ld, x + token[r] * width, static_cast<size_t>(width) * sizeof(T));
    if (ld > width) std::memset(out + r * ld + width, 0, static_cast<size_t>(ld - width) * sizeof(T));
  }
  if (rows > valid) std::memset(out + valid * ld, 0, static_cast<size_t>((rows - valid) * ld) * sizeof(T));
}

template <class T>
void gather_transposed(const T* x, int64_t width, const int32_t* token, const float* scale, int64_t valid, int64_t rows,
                       T* transposed, T* operand, float* column_sum) {
  Square square;
  for (int64_t r = 0; r < rows; r += kLanes) {
    const int64_t count = std::clamp<int64_t>(valid - r, 0, kLanes);
    for (int64_t c = 0; c < width; c += kLanes) {
      const int64_t lanes = std::min(kLanes, width - c);
      if (count < kLanes || lanes < kLanes) std::memset(&square, 0, sizeof square);
      for (int64_t i = 0; i < count; ++i) {
        const T* from = x + token[r + i] * width + c;
        const float s = scale != nullptr ? scale[r + i] : 1.0f;
        if (lanes == kLanes) {
          for (int64_t l = 0; l < kLanes; ++l) square.at[i][l] = s * load(from + l);
        } else {
          for (int64_t l = 0; l < lanes; ++l) square.at[i][l] = s * load(from + l);
        }
      }
      if (column_sum != nullptr) {
        float sum[kLanes] = {};
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t l = 0; l < kLanes; ++l) sum[l] += square.at[i][l];
        }
        for (int64_t l = 0; l < lanes; ++l) column_sum[c + l] += sum[l];
      }
      if (operand != nullptr) {
        const int64_t block = c / kBlock;
        store_operand(square, r, c % kBlock, lanes, rows, operand + block * kBlock * rows, kBlock);
      }
      if (transposed != nullptr) {
        transpose16(square);
        store_transposed(square, r, c, lanes, rows, transposed);
      }
    }
  }
}

/// What is kept of a unit that dropout drops: −1, or NaN where the product of its ReLU with zero is none.
inline float dropped(float pre) { return relu(pre) * 0.0f - 1.0f; }

template <class T>
void bias_relu(const HiddenTile& tile, const float* sum, const float* bias, T* kept, int64_t ld_kept, T* out) {
  for (int64_t r = 0; r < tile.valid; ++r) {
    const float* __restrict in = sum + r * tile.width;
    T* __restrict to = out + r * tile.ld;
    if (kept != nullptr) {
      T* __restrict keep = kept + r * ld_kept;
      for (int64_t h = 0; h < tile.width; ++h) {
        const float pre = rounded(to, bias != nullptr ? in[h] + bias[h] : in[h]);
        store(keep + h, pre);
        store(to + h, relu(pre));
      }
    } else {
      for (int64_t h = 0; h < tile.width; ++h) store(to + h, relu(bias != nullptr ? in[h] + bias[h] : in[h]));
    }
    if (tile.mask != nullptr) {
      const float* __restrict mask = tile.mask + r * tile.width;
      for (int64_t h = 0; h < tile.width; ++h) store(to + h, load(to + h) * mask[h]);
      if (kept != nullptr) {
        T* __restrict keep = kept + r * ld_kept;
        for (int64_t h = 0; h < tile.width; ++h) {
          if (mask[h] == 0) store(keep + h, dropped(load(keep + h)));
        }
      }
    }
    clear_padding(tile, to);
  }
}

template <class T>
void bias_keep(const HiddenTile& tile, const float* sum, const float* bias, T* kept, int64_t ld_kept, float* pre) {
  for (int64_t r = 0; r < tile.valid; ++r) {
    const float* __restrict in = sum + r * tile.width;
    float* __restrict to = pre + r * tile.width;
    for (int64_t h = 0; h < tile.width; ++h) {
      to[h] = rounded(static_cast<const T*>(nullptr), bias != nullptr ? in[h] + bias[h] : in[h]);
    }
    if (kept == nullptr) continue;
    T* __restrict keep = kept + r * ld_kept;
    for (int64_t h = 0; h < tile.width; ++h) store(keep + h, to[h]);
  }
}

template <class T>
void finish_hidden(const HiddenTile& tile, const float* act, const float* gate, T* out) {
  for (int64_t r = 0; r < tile.valid; ++r) {
    const float* __restrict a = act + r * tile.width;
    const float* __restrict g = gate != nullptr ? gate + r * tile.width : nullptr;
    const float* __restrict mask = tile.mask != nullptr ? tile.mask + r * tile.width : nullptr;
    T* __restrict to = out + r * tile.ld;
    for (int64_t h = 0; h < tile.width; ++h) {
      const float value = g != nullptr ? a[h] * g[h] : a[h];
      store(to + h, mask != nullptr ? value * mask[h] : value);
    }
    clear_padding(tile, to);
  }
}

template <class T>
void widen(const HiddenTile& tile, const T* kept, int64_t ld_kept, float* out) {
  for (int64_t r = 0; r < tile.valid; ++r) {
    const T* __restrict from = kept + r * ld_kept;
    float* __restrict to = out + r * tile.width;
    for (int64_t h = 0; h < tile.width; ++h) to[h] = load(from + h);
  }
}

inline void weigh(const HiddenTile& tile, const float* through, const float* scale, const float* factor, float* out) {
  for (int64_t r = 0; r < tile.valid; ++r) {
    const int64_t at = r * tile.width;
    const float* __restrict t = through + at;
    float* __restrict to = out + at;
    for (int64_t h = 0; h < tile.width; ++h) to[h] = t[h] * scale[r];
    if (tile.mask != nullptr) {
      for (int64_t h = 0; h < tile.width; ++h) to[h] *= tile.mask[at + h];
    }
    if (factor != nullptr) {
      for (int64_t h = 0; h < tile.width; ++h) to[h] *= factor[at + h];
    }
  }
}

/// The common walk of the two backward passes, square by square: fill(r + i, c, lanes, after row, before row) gives a row
/// of each, sixteen numbers.
template <class T, class Fill>
void walk_backward(const HiddenTile& tile, const float* through, T* after, T* before, T* transposed, float* dot,
                   float* column_sum, const Fill& fill) {
  Square after_square, before_square;
  for (int64_t r = 0; r < tile.rows; r += kLanes) {
    const int64_t rows = std::min(kLanes, tile.rows - r), count = std::clamp<int64_t>(tile.valid - r, 0, kLanes);
    alignas(64) float dots[kLanes][kLanes] = {};
    for (int64_t c = 0; c < tile.width; c += kLanes) {
      const int64_t lanes = std::min(kLanes, tile.width - c);
      if (count < kLanes || lanes < kLanes) {
        std::memset(&after_square, 0, sizeof after_square);
        std::memset(&before_square, 0, sizeof before_square);
      }
      for (int64_t i = 0; i < count; ++i) {
        float* __restrict a = after_square.at[i];
        float* __restrict b = before_square.at[i];
        const float* __restrict t = through + (r + i) * tile.width + c;
        if (lanes == kLanes) {
          fill(r + i, c, kLanes, a, b);
          for (int64_t l = 0; l < kLanes; ++l) dots[i][l] += t[l] * a[l];
        } else {
          fill(r + i, c, lanes, a, b);
          for (int64_t l = 0; l < lanes; ++l) dots[i][l] += t[l] * a[l];
        }
      }
      if (column_sum != nullptr) {
        float sum[kLanes] = {};
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t l = 0; l < kLanes; ++l) sum[l] += before_square.at[i][l];
        }
        for (int64_t l = 0; l < lanes; ++l) column_sum[c + l] += sum[l];
      }
      for (int64_t i = 0; i < rows; ++i) {
        T* to = before + (r + i) * tile.ld_before + c;
        if (lanes == kLanes) {
          for (int64_t l = 0; l < kLanes; ++l) store(to + l, before_square.at[i][l]);
        } else {
          for (int64_t l = 0; l < lanes; ++l) store(to + l, before_square.at[i][l]);
        }
      }
      if (after != nullptr) store_operand(after_square, r, c, lanes, tile.rows, after, tile.ld);
      if (transposed != nullptr) {
        transpose16(before_square);
        store_transposed(before_square, r, c, lanes, tile.rows, transposed);
      }
    }
    for (int64_t i = 0; i < rows; ++i) clear_padding(tile, before + (r + i) * tile.ld_before);
    if (dot == nullptr) continue;
    for (int64_t i = 0; i < count; ++i) {
      float total = 0;
      for (int64_t l = 0; l < kLanes; ++l) total += dots[i][l];
      dot[r + i] += total;
    }
  }
}

template <class T>
void relu_backward(const HiddenTile& tile, const float* through, const float* scale, const T* kept, int64_t ld_kept,
                   T* after, T* before, T* transposed, float* dot, float* column_sum) {
  const auto fill = [&](int64_t r, int64_t c, int64_t lanes, float* __restrict a, float* __restrict b) {
    const T* __restrict hidden = kept + r * ld_kept + c;
    const float* __restrict t = through + r * tile.width + c;
    for (int64_t l = 0; l < lanes; ++l) {
      const float h = load(hidden + l);
      a[l] = rounded(hidden, relu(h) * tile.kept_scale);
      b[l] = h <= 0 ? 0.0f : t[l] * scale[r] * tile.kept_scale;
    }
  };
  walk_backward(tile, through, after, before, transposed, dot, column_sum, fill);
}

template <class T>
void finish_backward(const HiddenTile& tile, const float* through, const float* after_in, const float* before_in,
                     T* after, T* before, T* transposed, float* dot, float* column_sum) {
  const auto copy = [&](int64_t r, int64_t c, int64_t lanes, float* __restrict a, float* __restrict b) {
    const int64_t at = r * tile.width + c;
    for (int64_t l = 0; l < lanes; ++l) {
      a[l] = after_in[at + l];
      b[l] = before_in[at + l];
    }
  };
  walk_backward(tile, through, after, before, transposed, dot, column_sum, copy);
}

inline void scatter_add(const float* sum, int64_t ld_sum, const float* bias, const float* scale, const int32_t* token,
                        int64_t valid, int64_t width, float* out) {
  for (int64_t r = 0; r < valid; ++r) {
    const float* __restrict in = sum + r * ld_sum;
    float* __restrict to = out + token[r] * width;
    const float s = scale[r];
    if (bias != nullptr) {
      for (int64_t d = 0; d < width; ++d) to[d] += s * (in[d] + bias[d]);
    } else {
      for (int64_t d = 0; d < width; ++d) to[d] += s * in[d];
    }
  }
}

template <class T>
void dot_bias(const T* x, const int32_t* token, int64_t valid, int64_t width, const float* bias, float* dot) {
  for (int64_t r = 0; r < valid; ++r) {
    const T* row = x + token[r] * width;
    float lanes[kLanes] = {};
    int64_t d = 0;
    for (; d + kLanes <= width; d += kLanes) {
      for (int64_t l = 0; l < kLanes; ++l) lanes[l] += load(row + d + l) * bias[d + l];
    }
    for (; d < width; ++d) lanes[0] += load(row + d) * bias[d];
    float total = 0;
    for (const float lane : lanes) total += lane;
    dot[r] += total;
  }
}

template <class T>
void sum_rows(const float* const* rows, int64_t count, int64_t width, T* out) {
  for (int64_t c = 0; c < width; c += kLanes) {
    const int64_t lanes = std::min(kLanes, width - c);
    float sum[kLanes] = {};
    if (lanes == kLanes) {
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t l = 0; l < kLanes; ++l) sum[l] += rows[i][c + l];
      }
      for (int64_t l = 0; l < kLanes; ++l) store(out + c + l, sum[l]);
    } else {
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t l = 0; l < lanes; ++l) sum[l] += rows[i][c + l];
      }
      for (int64_t l = 0; l < lanes; ++l) store(out + c + l, sum[l]);
    }
  }
}

template <class T>
void put_sums(const float* sum, int64_t rows, int64_t width, T* out, int64_t ld_out) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* __restrict from = sum + r * width;
    T* __restrict to = out + r * ld_out;
    for (int64_t c = 0; c < width; ++c) store(to + c, from[c]);
  }
}

/// Sixteen rows k of sixteen columns n of the matrix, zeros where there are none.
template <class In>
void load_square(const In* in, int64_t K, int64_t N, int64_t stride_k, int64_t stride_n, int64_t k, int64_t n,
                 Square& square) {
  const int64_t rows = std::min(kLanes, K - k), columns = std::min(kLanes, N - n);
  const bool whole = rows == kLanes && columns == kLanes;
  if (!whole) std::memset(&square, 0, sizeof square);
  const In* from = in + k * stride_k + n * stride_n;
  if (whole && stride_n == 1) {
    for (int64_t i = 0; i < kLanes; ++i) {
      for (int64_t l = 0; l < kLanes; ++l) square.at[i][l] = load(from + i * stride_k + l);
    }
  } else if (whole && stride_k == 1) {
    for (int64_t i = 0; i < kLanes; ++i) {
      for (int64_t l = 0; l < kLanes; ++l) square.at[i][l] = load(from + i * stride_n + l);
    }
    transpose16(square);
  } else {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t l = 0; l < columns; ++l) square.at[i][l] = load(from + i * stride_k + l * stride_n);
    }
  }
}

template <class T>
void pack(const void* in, bool in_is_t, int64_t K, int64_t N, int64_t stride_k, int64_t stride_n, T* out) {
  const int64_t padded = std::is_same_v<T, float> ? K : (K + 1) / 2 * 2;
  Square square;
  for (int64_t n = 0; n < N; n += kLanes) {
    T* block = out + n / kBlock * kBlock * padded;
    for (int64_t k = 0; k < padded; k += kLanes) {
      if (in_is_t) {
        load_square(static_cast<const T*>(in), K, N, stride_k, stride_n, k, n, square);
      } else {
        load_square(static_cast<const float*>(in), K, N, stride_k, stride_n, k, n, square);
      }
      store_operand(square, k, n % kBlock, kLanes, padded, block, kBlock);
    }
  }
}

template <class T>
constexpr RowPasses<T> make_row_passes() {
  return {gather<T>,
          gather_transposed<T>,
          bias_relu<T>,
          nullptr,
          bias_keep<T>,
          finish_hidden<T>,
          relu_backward<T>,
          nullptr,
          finish_backward<T>,
          widen<T>,
          weigh,
          scatter_add,
          dot_bias<T>,
          sum_rows<T>,
          put_sums<T>,
          pack<T>,
          nullptr};
}

}  // namespace
}  // namespace smoe
