// A run on disk: resolved recipe, environment, logs, checkpoints; one process at a time.
#pragma once

#include <filesystem>
#include <memory>

#include <nlohmann/json_fwd.hpp>

#include "smoe/train/recipe.h"

namespace smoe {

/// A locked run folder. The lock goes with the object, and with the process.
class RunFolder {
 public:
  /// Makes a new run with its resolved recipe. Throws UserError where `path` exists and is not empty.
  static RunFolder create(const std::filesystem::path& path, Recipe recipe);
  /// Opens a run to go on with it. Throws UserError where `path` is no run, or another process works in it.
  static RunFolder open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  Recipe recipe() const;

  /// Writes environment.json: versions, commit, processor features, threads, and the data's checksum.
  void write_environment(const nlohmann::ordered_json& data) const;

 private:
  explicit RunFolder(std::filesystem::path path);

  struct Lock;
  std::filesystem::path path_;
  std::shared_ptr<Lock> lock_;
};

/// Versions and processor features of this process, as JSON.
nlohmann::ordered_json environment();

}  // namespace smoe
