// Scalars over steps in the file format of TensorBoard: TFRecords that hold Event messages. Written here, since all of
// TensorFlow or a protobuf compiler would be a lot for three kinds of field. docs/formats.md shows the bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "smoe/base/file.h"

namespace smoe {

/// Its name in a run; TensorBoard looks for "tfevents".
inline constexpr const char* kEventLogName = "events.out.tfevents.smoe";

/// CRC-32C (Castagnoli, RFC 3720), and the same masked, as TFRecords store it.
uint32_t crc32c(std::string_view bytes);
uint32_t masked_crc32c(std::string_view bytes);

/// A log whose events come in the order of their steps.
class EventLog {
 public:
  using Scalars = std::vector<std::pair<std::string, double>>;  ///< tag, value; stored as fp32

  /// Opens for appending. The log is cut first, from the first event whose step is greater than `keep_through`, and so
  /// is a last record that is not whole; a negative `keep_through` starts an empty log. Throws UserError where a whole
  /// record before the cut is damaged, or the file is no such log.
  EventLog(const std::filesystem::path& path, int64_t keep_through);

  /// Appends an event of the scalars at `step`, made at `wall_time`, seconds since 1970.
  void write(int64_t step, double wall_time, const Scalars& scalars);

  /// Makes the events written so far outlive a loss of power.
  void sync();

 private:
  void append(const std::string& event);

  std::unique_ptr<FileWriter> file_;
};

}  // namespace smoe
