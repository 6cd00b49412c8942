#include "smoe/train/run_folder.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "smoe/base/build_info.h"
#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/tensor/torch_compat.h"

namespace smoe {

struct RunFolder::Lock {
  explicit Lock(const std::filesystem::path& run) {
    const std::filesystem::path path = run / ".lock";
    descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    require(descriptor >= 0, path.string(), ": cannot be written");
    if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
      ::close(descriptor);
      throw UserError(run.string() + ": another process is training in this run");
    }
  }
  ~Lock() { ::close(descriptor); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

  int descriptor;
};

namespace {

/// Whether an entry of a run's folder is what a process leaves that was killed before it had written a file, or a lock.
bool is_leftover(const std::filesystem::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  return name == ".lock" || (name.starts_with(".") && name.find(".tmp-") != std::string::npos);
}

}  // namespace

RunFolder::RunFolder(std::filesystem::path path) : path_(std::move(path)), lock_(std::make_shared<Lock>(path_)) {}

RunFolder RunFolder::create(const std::filesystem::path& path, Recipe recipe) {
  if (is_there(path)) {
    require(is_folder(path), path.string(), ": is a file; --out names a folder");
    // A run that was killed before it had its recipe can be neither continued nor harmed.
    const auto entries = list_folder(path);
    require(std::all_of(entries.begin(), entries.end(), is_leftover), path.string(),
            ": is not empty; continue it with --resume ", path.string(), ", or choose another --out");
  }
  make_folders(path);
  RunFolder run(path);
  write_file_atomic(path / "recipe.toml", to_toml(recipe.fields()));
  return run;
}

RunFolder RunFolder::open(const std::filesystem::path& path) {
  require(is_folder(path), path.string(), ": no such run");
  require(is_there(path / "recipe.toml"), path.string(), ": is not a run: it has no recipe.toml");
  return RunFolder(path);
}

Recipe RunFolder::recipe() const {
  Recipe recipe;
  read_toml_file(recipe.fields(), (path_ / "recipe.toml").string());
  recipe.check();
  return recipe;
}

nlohmann::ordered_json environment() {
  return {{"smoe", kVersion},
          {"commit", kCommit},
          {"build", kBuild},
          {"compiler", kCompiler},
          {"libtorch", libtorch_version()},
          {"cpu_capability", at::get_cpu_capability()},
          {"threads", at::get_num_threads()},
          {"cuda", at::hasCUDA()}};
}

void RunFolder::write_environment(const nlohmann::ordered_json& data) const {
  nlohmann::ordered_json json = environment();
  json["data"] = data;
  write_file_atomic(path_ / "environment.json", json.dump(2) + "\n");
}

}  // namespace smoe
