#include "smoe/models/memory.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "smoe/base/error.h"

namespace smoe {

at::Tensor GrowingRows::rows() const {
  return buffer_ == nullptr ? at::Tensor() : buffer_->places.narrow(1, begin_, size_);
}

void GrowingRows::append(const at::Tensor& fresh) {
  const int64_t S = fresh.size(1), size = size_ + S;
  last_added_ = S;
  if (size_ == 0) {
    buffer_ = std::make_shared<Buffer>(Buffer{.places = fresh.clone(at::MemoryFormat::Contiguous), .filled = S});
    begin_ = 0;
    size_ = S;
    return;
  }
  const at::Tensor& places = buffer_->places;
  require(fresh.scalar_type() == places.scalar_type() && fresh.size(0) == places.size(0) &&
              fresh.sizes().slice(2) == places.sizes().slice(2),
          "cannot add rows ", fresh.sizes(), " of ", fresh.scalar_type(), " to ", rows().sizes(), " of ",
          places.scalar_type(), ": a memory is of one model and one precision");
  // Places after the end are free where no copy has filled them. A quarter more than is needed makes a row that is kept
  // move once in so many rows, and what is held at most a quarter more.
  const int64_t end = begin_ + size_;
  if (end != buffer_->filled || end + S > places.size(1)) move(size + size / 4);
  buffer_->places.narrow(1, begin_ + size_, S).copy_(fresh);
  size_ = size;
  buffer_->filled += S;
}

void GrowingRows::keep_last(int64_t count) {
  const int64_t kept = std::clamp<int64_t>(count, 0, size_);
  begin_ += size_ - kept;
  size_ = kept;
  // Else a long segment would stay in memory for the few rows that are kept of it. Where as many come again, they have room.
  if (buffer_ != nullptr && 2 * (kept + last_added_) < buffer_->places.size(1)) move(kept);
}

void GrowingRows::move(int64_t capacity) {
  std::vector<int64_t> sizes = buffer_->places.sizes().vec();
  sizes[1] = capacity;
  const at::Tensor places = at::empty(sizes, buffer_->places.options());
  places.narrow(1, 0, size_).copy_(rows());
  buffer_ = std::make_shared<Buffer>(Buffer{.places = places, .filled = size_});
  begin_ = 0;
}

void LayerMemory::end_segment(const at::Tensor& x, int64_t length) {
  if (!inputs.defined()) {
    key_value.keep_last(length);
    return;
  }
  const int64_t M = inputs.size(1), S = x.size(1), old = std::clamp<int64_t>(length - S, 0, M);
  // Of a longer segment a copy, since a view would hold all of it.
  const at::Tensor last = length < S ? x.detach().narrow(1, S - length, length).clone() : x.detach();
  inputs = old == 0 ? last.contiguous() : at::cat({inputs.narrow(1, M - old, old), last}, 1);
}

}  // namespace smoe
