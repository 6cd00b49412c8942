// Every reader of files from outside that needs no LibTorch, as one table: for the tests on broken files and for the
// fuzzer.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tests/base/temp_folder.h"

namespace smoe {

/// A format, and the reader that must survive whatever claims to be of it.
struct Format {
  const char* name;  ///< of its folder in tests/formats/broken and tests/fuzz/corpus
  const char* file;  ///< what a file is called where it is read, from the folder of a FormatPlace
  /// Reads the file. Throws UserError where it is broken, and std::logic_error where what was read does not hold
  /// together: where it is written and read again, it must be the same.
  void (*read)(const std::filesystem::path& file);
};

const std::vector<Format>& formats();

/// The format of that name; throws std::invalid_argument where there is none.
const Format& find_format(std::string_view name);

/// A folder with all that the readers want to find around a file.
class FormatPlace {
 public:
  explicit FormatPlace(const Format& format);

  /// Reads a file of these bytes. Returns what the reader says, with "DIR" for the folder, or "" where it takes them.
  /// Throws std::logic_error where it says so in more than one line, at length, or without naming a file.
  std::string fault(std::string_view bytes) const;

 private:
  const Format& format_;
  TempFolder folder_;
};

}  // namespace smoe
