// Files: whole reads, memory maps, and writes that are either complete or not there at all; and folders.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace smoe {

using Bytes = std::span<const std::byte>;

/// The bytes of a string, and the text of bytes, without a copy.
Bytes as_bytes(std::string_view text);
std::string_view as_text(Bytes bytes);

/// The whole file as a string. Throws UserError naming the file where it cannot be read, or has more than `most` bytes,
/// which a device has without an end.
std::string read_file(const std::filesystem::path& path, uint64_t most = std::numeric_limits<uint64_t>::max());

/// Whether there is anything at `path`, and whether that is a folder; of a link, what it leads to. Throws UserError where the
/// system does not say, as of a name that is too long or behind a folder that may not be entered.
bool is_there(const std::filesystem::path& path);
bool is_folder(const std::filesystem::path& path);

/// The entries of a folder, in no order. Throws UserError naming the folder where it cannot be listed.
std::vector<std::filesystem::directory_entry> list_folder(const std::filesystem::path& folder);

/// Makes a folder, and what is missing of the ones that it is in; an empty path is the current folder, which is there. Throws
/// UserError naming it where it cannot be made, Failure where the disk is full.
void make_folders(const std::filesystem::path& folder);

/// Removes what is at `path`, a folder with all that is in it; nothing may be there. Throws as make_folders() does.
void remove_tree(const std::filesystem::path& path);

/// Whether `name` can be an entry of a folder: no path, neither "." nor "..", without a NUL, and no longer than names are.
bool is_file_name(const std::string& name);

/// A read-only memory map of a regular file; an empty file maps to no bytes.
class MappedFile {
 public:
  /// Throws UserError where `path` is missing, a directory, or not readable.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  Bytes bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// A file being written. What cannot be written throws Failure naming the file and the system's reason (disk full,
/// say); a path that cannot be opened for writing throws UserError.
class FileWriter {
 public:
  /// Creates or truncates; with `append`, continues at the end.
  explicit FileWriter(const std::filesystem::path& path, bool append = false);
  ~FileWriter();  ///< closes without flushing to the disk; call finish() for that
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void write(Bytes bytes);
  void write(std::string_view text) { write(as_bytes(text)); }
  /// Makes what was written so far durable.
  void sync();
  /// sync() and close. Nothing may be written after it.
  void finish();

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// Writes `text` to `path` so that after a crash there is the old file or the new one, never a part: a temporary file
/// beside it, fsync, rename, fsync of the folder.
void write_file_atomic(const std::filesystem::path& path, std::string_view text);

/// Renames `from`, and what was at `to` is gone: a file, or an empty folder. Throws Failure naming `to` where that fails.
void rename_over(const std::filesystem::path& from, const std::filesystem::path& to);

/// Makes a rename or a new file in `folder` durable.
void sync_folder(const std::filesystem::path& folder);

/// Cuts `path` to `size` bytes and makes that durable.
void truncate_file(const std::filesystem::path& path, uint64_t size);

}  // namespace smoe
