#include "smoe/train/checkpoint_store.h"

#include <algorithm>
#include <vector>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/manifest.h"

namespace smoe {
namespace {

bool is_checkpoint(const std::filesystem::directory_entry& entry) {
  return entry.path().filename().string().starts_with("step-");
}

}  // namespace

CheckpointStore::CheckpointStore(std::filesystem::path folder, int64_t keep_last)
    : folder_(std::move(folder)), keep_last_(keep_last) {
  make_folders(folder_);
  if (is_there(folder_ / "index.json")) {
    index_ = read_checkpoint_index(folder_);
    return;
  }
  const auto entries = list_folder(folder_);
  require(std::none_of(entries.begin(), entries.end(), is_checkpoint), (folder_ / "index.json").string(),
          ": no such file, but there are checkpoints beside it; which of them is the last cannot be told");
  write_checkpoint_index(folder_, index_);
}

bool CheckpointStore::improves(const Scores& scores) const {
  return (scores.full && *scores.full < index_.best_full.nll) ||
         (scores.small && *scores.small < index_.best_small.nll);
}

void CheckpointStore::save(int64_t step, const Scores& scores,
                           const std::function<void(const std::filesystem::path&)>& write) {
  const std::string name = checkpoint_name(step);
  if (index_.last.name == name) return;  // nothing has happened since it was saved
  make_folder_atomic(folder_ / name, write);
  CheckpointIndex next = index_;
  next.last = {.name = name};
  if (scores.full && *scores.full < next.best_full.nll) next.best_full = {name, *scores.full};
  if (scores.small && *scores.small < next.best_small.nll) next.best_small = {name, *scores.small};
  write_checkpoint_index(folder_, next);
  index_ = next;
  remove_stale();
}

bool CheckpointStore::is_kept(const std::string& name) const {
  return name == index_.last.name || name == index_.best_full.name || name == index_.best_small.name;
}

void CheckpointStore::remove_stale() {
  std::vector<std::string> names;
  for (const auto& entry : list_folder(folder_)) {
    const std::string name = entry.path().filename().string();
    const bool unfinished = name.starts_with(".saving-") || name.starts_with(".index.json.tmp-");
    // Names sort like steps. One past the last was renamed but never entered in the index: it will be made again.
    const bool unknown = is_checkpoint(entry) && name > index_.last.name;
    if (unfinished || unknown) {
      remove_tree(entry.path());
    } else if (is_checkpoint(entry)) {
      names.push_back(name);
    }
  }
  std::sort(names.rbegin(), names.rend());
  for (size_t i = static_cast<size_t>(keep_last_); i < names.size(); ++i) {
    if (!is_kept(names[i])) remove_tree(folder_ / names[i]);
  }
}

}  // namespace smoe
