// checkpoints/index.json: which of a run's checkpoints is the last, and which are the best.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>

namespace smoe {

/// "step-00000500".
std::string checkpoint_name(int64_t step);

/// A checkpoint's folder name, and the validation loss it was chosen for.
struct IndexedCheckpoint {
  std::string name;  ///< empty: none yet
  double nll = std::numeric_limits<double>::infinity();
};

struct CheckpointIndex {
  IndexedCheckpoint last;        ///< to resume from; without a name before the first save
  IndexedCheckpoint best_full;   ///< lowest loss with every expert on
  IndexedCheckpoint best_small;  ///< lowest loss at the small k
};

/// Reads `checkpoints`/index.json; throws UserError where it is missing, changed by so much as a byte, or names a folder
/// that is not there.
CheckpointIndex read_checkpoint_index(const std::filesystem::path& checkpoints);

/// Writes it atomically.
void write_checkpoint_index(const std::filesystem::path& checkpoints, const CheckpointIndex& index);

}  // namespace smoe
