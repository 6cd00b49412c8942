#include "smoe/base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <system_error>
#include <utility>

#include "smoe/base/error.h"

namespace smoe {
namespace {

std::string reason(int error) { return std::system_category().message(error); }

/// Errors of open() that the caller's path has no part in.
bool is_ours(int error) {
  return error == ENOSPC || error == EDQUOT || error == EIO || error == EMFILE || error == ENFILE || error == ENOMEM;
}

std::filesystem::file_type type_at(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_type type = std::filesystem::status(path, error).type();
  require(type != std::filesystem::file_type::none, path.string(), ": cannot be looked up: ", error.message());
  return type;
}

/// Throws where the system says that something cannot be done with `path`.
void require_done(const std::error_code& error, const std::filesystem::path& path, const char* done) {
  if (!error) return;
  const std::string message = concat(path.string(), ": cannot be ", done, ": ", error.message());
  if (is_ours(error.value())) throw Failure(message);
  throw UserError(message);
}

/// A descriptor that closes itself.
class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags) {
    do {
      value_ = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
    } while (value_ < 0 && errno == EINTR);
    if (value_ >= 0) return;
    const int error = errno;
    const bool reading = (flags & O_ACCMODE) == O_RDONLY;
    if (is_ours(error)) throw Failure(concat(path.string(), ": cannot be opened: ", reason(error)));
    require(error != ENOENT || !reading, path.string(), ": no such file or folder");
    require(error != EISDIR, path.string(), ": is a folder, not a file");
    throw UserError(concat(path.string(), ": cannot be ", reading ? "read: " : "written: ", reason(error)));
  }
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return value_; }
  int release() { return std::exchange(value_, -1); }

 private:
  int value_ = -1;
};

/// The status of an open file that is not a folder.
struct stat status_of(int descriptor, const std::filesystem::path& path) {
  struct stat status = {};
  if (::fstat(descriptor, &status) != 0) throw Failure(concat(path.string(), ": fstat: ", reason(errno)));
  require(!S_ISDIR(status.st_mode), path.string(), ": is a folder, not a file");
  return status;
}

void sync_descriptor(int descriptor, const std::filesystem::path& path) {
  while (::fsync(descriptor) != 0) {
    if (errno == EINTR) continue;
    if (errno == EINVAL || errno == EROFS) return;  // a pipe or a device: there is nothing to flush to
    throw Failure(concat(path.string(), ": cannot be flushed to the disk: ", reason(errno)));
  }
}

}  // namespace

Bytes as_bytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

std::string_view as_text(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

std::string read_file(const std::filesystem::path& path, uint64_t most) {
  const Descriptor file(path, O_RDONLY);
  const struct stat status = status_of(file.get(), path);
  const auto check_size = [&](uint64_t size) {
    require(size <= most, path.string(), ": is larger than such a file can be, which is ", most, " bytes");
  };
  if (status.st_size > 0) check_size(static_cast<uint64_t>(status.st_size));
  // The size is only a hint: a pipe has none, and a file may grow while it is read.
  std::string text(status.st_size > 0 ? static_cast<size_t>(status.st_size) + 1 : size_t{1} << 16, '\0');
  size_t filled = 0;
  for (;;) {
    if (filled == text.size()) text.resize(2 * text.size());
    const ssize_t got = ::read(file.get(), text.data() + filled, text.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw UserError(concat(path.string(), ": cannot be read: ", reason(errno)));
    if (got == 0) break;
    filled += static_cast<size_t>(got);
    check_size(filled);
  }
  text.resize(filled);
  return text;
}

bool is_there(const std::filesystem::path& path) { return type_at(path) != std::filesystem::file_type::not_found; }

bool is_folder(const std::filesystem::path& path) { return type_at(path) == std::filesystem::file_type::directory; }

std::vector<std::filesystem::directory_entry> list_folder(const std::filesystem::path& folder) {
  std::vector<std::filesystem::directory_entry> entries;
  std::error_code error;
  std::filesystem::directory_iterator entry(folder, error);
  for (const std::filesystem::directory_iterator end; !error && entry != end; entry.increment(error)) {
    entries.push_back(*entry);
  }
  require_done(error, folder, "listed");
  return entries;
}

void make_folders(const std::filesystem::path& folder) {
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  require_done(error, folder, "made");
}

void remove_tree(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  require_done(error, path, "removed");
}

bool is_file_name(const std::string& name) {
  return std::filesystem::path(name).filename() == name && !name.empty() && name != "." && name != ".." &&
         name.find('\0') == std::string::npos && name.size() <= NAME_MAX;
}

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const Descriptor file(path, O_RDONLY | O_NONBLOCK);  // opening a pipe would wait for its writer
  const struct stat status = status_of(file.get(), path);
  require(S_ISREG(status.st_mode), path.string(), ": is not a regular file");
  if (status.st_size == 0) return;
  const size_t size = static_cast<size_t>(status.st_size);
  void* const address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) throw Failure(concat(path.string(), ": cannot be mapped: ", reason(errno)));
  data_ = static_cast<const std::byte*>(address);
  size_ = size;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

FileWriter::FileWriter(const std::filesystem::path& path, bool append) : path_(path) {
  Descriptor file(path, O_WRONLY | O_CREAT | (append ? O_APPEND : O_TRUNC));
  descriptor_ = file.release();
}

FileWriter::~FileWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void FileWriter::write(Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(descriptor_, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw Failure(concat(path_.string(), ": cannot be written: ", reason(errno)));
    bytes = bytes.subspan(static_cast<size_t>(put));
  }
}

void FileWriter::sync() { sync_descriptor(descriptor_, path_); }

void FileWriter::finish() {
  sync();
  // Linux closes the descriptor even where close() is interrupted, so that it must not be called twice.
  if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) {
    throw Failure(concat(path_.string(), ": cannot be closed: ", reason(errno)));
  }
}

void write_file_atomic(const std::filesystem::path& path, std::string_view text) {
  require(path.has_filename(), path.string(), ": is not the name of a file");
  require(!is_folder(path), path.string(), ": is a folder, not a file");
  const std::filesystem::path temporary =
      path.parent_path() / concat(".", path.filename().string(), ".tmp-", ::getpid());
  try {
    FileWriter file(temporary);
    file.write(text);
    file.finish();
    rename_over(temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_folder(path.parent_path());
}

void rename_over(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (std::rename(from.c_str(), to.c_str()) == 0) return;
  throw Failure(concat(to.string(), ": cannot be replaced: ", reason(errno)));
}

void sync_folder(const std::filesystem::path& folder) {
  const std::filesystem::path named = folder.empty() ? "." : folder;
  const Descriptor descriptor(named, O_RDONLY | O_DIRECTORY);
  sync_descriptor(descriptor.get(), named);
}

void truncate_file(const std::filesystem::path& path, uint64_t size) {
  const Descriptor file(path, O_WRONLY);
  int result = 0;
  do {
    result = ::ftruncate(file.get(), static_cast<off_t>(size));
  } while (result != 0 && errno == EINTR);
  if (result != 0) throw Failure(concat(path.string(), ": cannot be cut to ", size, " bytes: ", reason(errno)));
  sync_descriptor(file.get(), path);
}

}  // namespace smoe
