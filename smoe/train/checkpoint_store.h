// The checkpoints of a run: each is complete or not there, and the index says which to use.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "smoe/models/checkpoint_index.h"

namespace smoe {

/// The folder `checkpoints` of a run. One process writes to it at a time.
class CheckpointStore {
 public:
  /// Makes the folder and its index where they are missing. Throws UserError where there are checkpoints but no index, or
  /// the index is damaged.
  CheckpointStore(std::filesystem::path folder, int64_t keep_last);

  /// Validation losses of the step that is saved; each makes it the best where it is lower than what was.
  struct Scores {
    std::optional<double> full, small;
  };

  /// Whether `scores` would make a new best.
  bool improves(const Scores& scores) const;

  /// Saves a checkpoint: `write` fills a temporary folder, which is then given its manifest, made durable, renamed, and
  /// entered in the index as the last one (and as best, where `scores` say so). Older checkpoints that are neither best
  /// nor among the last are removed.
  void save(int64_t step, const Scores& scores, const std::function<void(const std::filesystem::path&)>& write);

  /// Removes what a save that was cut off has left, checkpoints past the last one (renamed, but never entered in the
  /// index: they will be made again), and those that are neither best nor among the last. Call it once the last
  /// checkpoint is known to be good.
  void remove_stale();

  const CheckpointIndex& index() const { return index_; }
  std::filesystem::path last() const { return folder_ / index_.last.name; }

 private:
  bool is_kept(const std::string& name) const;

  std::filesystem::path folder_;
  int64_t keep_last_;
  CheckpointIndex index_;
};

}  // namespace smoe
