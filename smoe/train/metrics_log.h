// metrics.jsonl of a run, and the same numbers for TensorBoard beside it.
#pragma once

#include <cstdint>
#include <filesystem>

#include <nlohmann/json_fwd.hpp>

#include "smoe/base/event_log.h"
#include "smoe/base/json_lines.h"

namespace smoe {

/// The scalars of a line of metrics.jsonl as TensorBoard shows them: docs/formats.md lists the tags. What is null in the
/// line has none.
EventLog::Scalars scalars_of(const nlohmann::ordered_json& line);

/// Both logs of the run in `run`; opened, cut and written together.
class MetricsLog {
 public:
  /// See JsonLines and EventLog for `keep_through` and what is refused.
  MetricsLog(const std::filesystem::path& run, int64_t keep_through);

  void write(const nlohmann::ordered_json& line);
  void sync();

 private:
  JsonLines lines_;
  EventLog events_;
};

}  // namespace smoe
