// A log with one JSON object a line, which can be cut back to a step when a run resumes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include <nlohmann/json_fwd.hpp>

#include "smoe/base/file.h"

namespace smoe {

/// A log whose lines come in the order of their steps.
class JsonLines {
 public:
  /// Opens for appending. The log is cut first, from the first line whose "step" is greater than `keep_through`, and so
  /// is a last line that is not whole (the process was killed while it wrote); a negative `keep_through` starts an
  /// empty log. Throws UserError where a whole line before the cut is no JSON object with an integer "step".
  JsonLines(const std::filesystem::path& path, int64_t keep_through);

  /// Appends a line and hands it to the system: it outlives a kill of the process, not a loss of power. Throws
  /// UserError where `line` is no object with an integer "step".
  void write(const nlohmann::ordered_json& line);

  /// Makes the lines written so far outlive a loss of power.
  void sync();

 private:
  std::unique_ptr<FileWriter> file_;
};

}  // namespace smoe
