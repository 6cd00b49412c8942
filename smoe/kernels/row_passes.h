// The passes around the products of the mixture's CPU body: gather, bias, activation, dropout, transposition, scatter.
// Compiled for several instruction sets from one text (row_passes_body.h), of which the best is chosen once.
#pragma once

#include <cstdint>

namespace smoe {

/// The bits of a bf16 number.
struct Bf16 {
  uint16_t bits;
};

/// Functions of an activation's gate, in the order of Activation (kernels/activation.h).
enum class GateFunction : int32_t { kRelu, kGelu, kGeluTanh, kSilu };

/// A tile of rows between the two matrices: [rows, width], of which `valid` rows hold a token and the rest are padding.
struct HiddenTile {
  int64_t rows, valid, width;  ///< rows ≥ valid, a multiple of 8 in the backward pass; width any
  int64_t ld;                  ///< of the operands made of the tile: width, for bf16 rounded up to even
  const float* mask;           ///< [valid, width] dropout's mask, or null for none
  int64_t ld_before = 0;       ///< backward: of `before`, whose columns may be some of more
  int64_t ahead = 0;           ///< backward: elements from what is kept to what the next call will read
  float kept_scale = 1;        ///< relu_backward: what dropout multiplied the units by that it kept
};

/// Half of a gated activation's tile, gates or values, or all of another's: sum [valid, width], bias and kept as for bias_relu.
template <class T>
struct HiddenHalf {
  const float *sum, *bias;
  T* kept;
};

/// Which gradient activate_backward is to give.
enum class HiddenGradient { kGate, kValue };

/// T is float or Bf16: the dtype of x and of the operands of the products. Sums are fp32. Nothing here allocates.
template <class T>
struct RowPasses {
  /// out [rows, ld] = rows token[0 … valid) of x [·, width]; columns from width to ld and padding rows become zero.
  void (*gather)(const T* x, int64_t width, const int32_t* token, int64_t valid, int64_t rows, T* out, int64_t ld);

  /// For the weight gradients: transposed [width, rows] = (scale[r] · x[token[r]])ᵀ and operand = the rows as the second
  /// operand of a product, in blocks of 64 columns (block n at n · 64 · rows; bf16 in pairs of rows). Either may be
  /// null. column_sum [width] += Σ_r of the scaled rows, where not null.
  void (*gather_transposed)(const T* x, int64_t width, const int32_t* token, const float* scale, int64_t valid,
                            int64_t rows, T* transposed, T* operand, float* column_sum);

  /// ReLU between the matrices: sum [valid, width] + bias → kept (ld ld_kept, may be null), rounded to T, where dropped
  /// units become −1 (NaN stays): their ReLU and its gradient are zero, so that the backward pass needs no mask; out
  /// [valid, width] (ld tile.ld, with zeros from width to an even end) = relu(that sum) · mask.
  void (*bias_relu)(const HiddenTile& tile, const float* sum, const float* bias, T* kept, int64_t ld_kept, T* out);

  /// The same for any function of a gate: out = function(sum + bias) · mask, or with `value`, that of its other half too, both
  /// rounded to T and kept. Null where activations are computed elsewhere, by the two passes that follow.
  void (*activate)(const HiddenTile& tile, GateFunction function, const HiddenHalf<T>& gate, const HiddenHalf<T>* value,
                   int64_t ld_kept, T* out);

  /// The first half of the same, for activations that are computed elsewhere: pre [valid, width] = the rounded sum.
  void (*bias_keep)(const HiddenTile& tile, const float* sum, const float* bias, T* kept, int64_t ld_kept, float* pre);
  /// The second half: out = T(act · mask), or with `gate` out = T(act · gate · mask); fp32 inputs [valid, width].
  void (*finish_hidden)(const HiddenTile& tile, const float* act, const float* gate, T* out);

  /// Backward of ReLU between the matrices. through [rows, width] is gradient · W2, not yet weighted. From the kept
  /// hidden: `after` = relu(kept) · kept_scale as a second operand (bf16 in pairs of rows), dot[r] += ⟨through, after⟩,
  /// before [rows, width] (ld tile.ld_before) = scale[r] · kept_scale · through where kept > 0, its transposed [width,
  /// rows], and column_sum [width] += Σ_r before. The mask is not looked at. Padding rows become zero. `after`, `transposed`,
  /// `dot` and `column_sum` may be null.
  void (*relu_backward)(const HiddenTile& tile, const float* through, const float* scale, const T* kept,
                        int64_t ld_kept, T* after, T* before, T* transposed, float* dot, float* column_sum);

  /// The same for any function of a gate, from what `activate` kept; `value` is null where it is not gated. before is the
  /// gradient of the gate or of the value, with the mask and without kept_scale. For widths that are multiples of sixteen.
  /// Null where activations are computed elsewhere.
  void (*activate_backward)(const HiddenTile& tile, GateFunction function, HiddenGradient which, const float* through,
                            const float* scale, const T* gate, const T* value, int64_t ld_kept, T* after, T* before,
                            T* transposed, float* dot, float* column_sum);

  /// What relu_backward does after the activation: from after_in and before_in [valid, width] in fp32.
  void (*finish_backward)(const HiddenTile& tile, const float* through, const float* after_in, const float* before_in,
                          T* after, T* before, T* transposed, float* dot, float* column_sum);

  /// For other activations: out [valid, width] = the kept numbers in fp32; and out = through · scale[r] · mask · factor
  /// (factor [valid, width] may be null).
  void (*widen)(const HiddenTile& tile, const T* kept, int64_t ld_kept, float* out);
  void (*weigh)(const HiddenTile& tile, const float* through, const float* scale, const float* factor, float* out);

  /// out[token[r]] += scale[r] · (sum[r] + bias), rows ascending; sum [valid, width], bias may be null.
  void (*scatter_add)(const float* sum, int64_t ld_sum, const float* bias, const float* scale, const int32_t* token,
                      int64_t valid, int64_t width, float* out);

  /// ⟨x[token[r]], bias⟩ added to dot[r].
  void (*dot_bias)(const T* x, const int32_t* token, int64_t valid, int64_t width, const float* bias, float* dot);

  /// out [width] = T(Σ_i of rows[i]), in the order given.
  void (*sum_rows)(const float* const* rows, int64_t count, int64_t width, T* out);

  /// out [rows, width] (ld ld_out) = T(sum [rows, width]); past the caches where that can be, for what is not read soon.
  void (*put_sums)(const float* sum, int64_t rows, int64_t width, T* out, int64_t ld_out);

  /// A matrix B [K, N], element (k, n) at k · stride_k + n · stride_n, as second operands: blocks of 64 columns, each
  /// [K, 64] (bf16: K rounded up to even, in pairs of rows), missing rows zero and missing columns up to the next multiple of
  /// 16; what is past these is not written, and nothing reads it. `in` is fp32 or, for bf16, T itself where in_is_t.
  void (*pack)(const void* in, bool in_is_t, int64_t K, int64_t N, int64_t stride_k, int64_t stride_n, T* out);

  /// Rows of a weight, [rows, width] with rows of `ld`, as a block [width, 64] of the second operand that its transpose is,
  /// of which they are the columns, and as rows of the one that it is itself, whose blocks of 64 columns begin
  /// `backward_stride` apart. Rows, at most 64, and width are multiples of sixteen. With `stream`, past the caches, which is
  /// cheaper where there is more of it than they hold. Null where there is no better way than to pack twice.
  void (*pack_both)(const void* in, bool in_is_t, int64_t rows, int64_t width, int64_t ld, bool stream, T* forward,
                    T* backward, int64_t backward_stride);
};

template <class T>
const RowPasses<T>& row_passes();

/// The instruction set that row_passes chose: "baseline", "avx2" or "avx512".
const char* row_passes_level();

}  // namespace smoe
