// Segments of a token sequence in order: each batch row reads its own contiguous stream.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "smoe/data/corpus.h"

namespace smoe {

/// Where a stream stands; saved in checkpoints.
struct StreamPosition {
  int64_t offset = 0;  ///< tokens of each row already read in this epoch
  int64_t epoch = 0;   ///< whole passes made
};

/// One step's input and the tokens that follow it.
struct Segment {
  at::Tensor input;           ///< int64 [B, S]
  at::Tensor target;          ///< int64 [B, S], one token later
  bool starts_epoch = false;  ///< memory must be emptied first
  at::Tensor label = {};      ///< int64 [B, S] of the inputs, undefined where the text has none
};

/// Cuts a sequence to a multiple of `streams`, splits it into that many contiguous streams, and reads them side by side
/// in segments; nothing is shuffled. The last segment of an epoch may be shorter. Of the streams, this object reads
/// rows [first, first + rows): the share of one rank.
class BatchStream {
 public:
  /// Throws UserError where streams, segment or rows are out of range, and, naming `source`, where the sequence has
  /// fewer than two tokens a stream. `tokens` must outlive the stream.
  BatchStream(const TokenSequence& tokens, int64_t streams, int64_t segment, int64_t first, int64_t rows,
              const std::string& source);

  /// The next segment; after the last one of an epoch, the first of the next epoch.
  Segment next();

  /// Tokens that an epoch predicts in each row.
  int64_t targets_per_row() const { return length_ - 1; }
  int64_t segments_per_epoch() const { return (length_ - 1 + segment_ - 1) / segment_; }

  const StreamPosition& position() const { return position_; }
  /// Goes on from a saved position; throws UserError where an epoch has no such place.
  void seek(const StreamPosition& position);

 private:
  const TokenSequence& tokens_;
  int64_t segment_, first_, rows_;
  int64_t length_ = 0;  // tokens of a row
  StreamPosition position_;
};

}  // namespace smoe
