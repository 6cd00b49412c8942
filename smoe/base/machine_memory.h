// How much memory this process may use: the machine's, or less where a control group says so.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace smoe {

/// A bound on this process's memory, in bytes.
struct MemoryLimit {
  int64_t bytes = 0;   ///< 0 where nothing could be found out
  std::string source;  ///< "this machine", or the control group's file that says less
};

/// The least of the machine's memory and the limits of this process's control groups and of those above them (version 1
/// and 2). Swap does not count. `root` stands for "/", for tests.
MemoryLimit memory_limit(const std::filesystem::path& root = "/");

/// The bytes as people read them: "512 B", "1.2 MB", "23.1 GB", in powers of 1000.
std::string bytes_text(double bytes);

}  // namespace smoe
