// A program that this one starts, looks after, and takes with it when it dies.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace smoe {

/// A running child. It is in a process group of its own, so that a Ctrl-C reaches it through signal() alone, and gets
/// SIGTERM when the thread that started it ends, however that ends.
class ChildProcess {
 public:
  /// Starts `program` with `arguments` (without the program's own name). Its output goes to the file `out`, which is
  /// made new, its errors to the end of the file `log`; it has no input. Throws Failure naming what the system refused.
  ChildProcess(const std::filesystem::path& program, const std::vector<std::string>& arguments,
               const std::filesystem::path& out, const std::filesystem::path& log);
  /// Kills the child where it still runs, and waits for it.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// Its exit code once it has ended, 128 + the signal's number where a signal ended it; nothing while it runs.
  std::optional<int> poll();

  void signal(int number);

 private:
  pid_t pid_ = -1;
  std::optional<int> code_;
};

}  // namespace smoe
