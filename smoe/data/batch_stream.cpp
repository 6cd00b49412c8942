#include "smoe/data/batch_stream.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "smoe/base/error.h"

namespace smoe {

BatchStream::BatchStream(const TokenSequence& tokens, int64_t streams, int64_t segment, int64_t first, int64_t rows,
                         const std::string& source)
    : tokens_(tokens), segment_(segment), first_(first), rows_(rows) {
  require(streams >= 1 && segment >= 1, "a batch needs at least one stream and segments of at least one token, got ",
          streams, " and ", segment);
  require(first >= 0 && rows >= 1 && first + rows <= streams, "rows ", first, " to ", first + rows,
          " are not among the ", streams, " streams");
  length_ = tokens.size() / streams;
  require(length_ >= 2, source, " has ", tokens.size(), " tokens; ", streams,
          " streams need at least two each: a longer text or a smaller batch");
}

void BatchStream::seek(const StreamPosition& position) {
  require(position.offset >= 0 && position.offset <= length_ - 1 && position.epoch >= 0, "the data position ",
          position.offset, " in epoch ", position.epoch, " is outside the streams of ", length_, " tokens");
  position_ = position;
}

Segment BatchStream::next() {
  if (position_.offset >= length_ - 1) position_ = {.offset = 0, .epoch = position_.epoch + 1};
  const int64_t size = std::min(segment_, length_ - 1 - position_.offset);
  Segment out{at::empty({rows_, size}, at::kLong), at::empty({rows_, size}, at::kLong), position_.offset == 0};
  if (tokens_.has_labels()) out.label = at::empty({rows_, size}, at::kLong);
  int64_t* input = out.input.mutable_data_ptr<int64_t>();
  int64_t* target = out.target.mutable_data_ptr<int64_t>();
  for (int64_t row = 0; row < rows_; ++row) {
    const int64_t first = (first_ + row) * length_ + position_.offset;
    const uint8_t* from = tokens_.data() + first;
    std::copy_n(from, size, input + row * size);
    std::copy_n(from + 1, size, target + row * size);
    if (out.label.defined()) tokens_.copy_labels(first, size, out.label.mutable_data_ptr<int64_t>() + row * size);
  }
  position_.offset += size;
  return out;
}

}  // namespace smoe
