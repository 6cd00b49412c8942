#include "smoe/kernels/row_linear.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/linear.h>

#include "smoe/base/error.h"
#include "smoe/tensor/one_thread.h"

namespace smoe {
namespace {

// MKL takes other kernels for rows that do not start at whole vectors, so that with an odd width, say, every second row
// has other bits than the rest. 16 bytes were enough where it was measured; this is 64 bytes of fp32.
constexpr int64_t kWidthTile = 16;

int64_t missing(int64_t size, int64_t multiple) { return (multiple - size % multiple) % multiple; }

}  // namespace

at::Tensor row_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) {
  require(x.dim() == 2 && w.dim() == 2 && x.size(1) == w.size(1), "row_linear: x must be [M, I] and w [O, I], got ",
          x.sizes(), " and ", w.sizes());
  const OneThreadProducts one_thread;
  const int64_t rows = missing(x.size(0), kRowTile), columns = missing(x.size(1), kWidthTile);
  if (rows == 0 && columns == 0) return at::linear(x, w, b);
  const at::Tensor wide = columns == 0 ? w : at::constant_pad_nd(w, {0, columns});
  return at::linear(at::constant_pad_nd(x, {0, columns, 0, rows}), wide, b).narrow(0, 0, x.size(0));
}

}  // namespace smoe
