#include "smoe/base/file.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <iterator>
#include <thread>

#include "smoe/base/error.h"
#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

size_t files_in(const TempFolder& folder) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder.path()), {}));
}

/// While it lives, no file may grow beyond `bytes`: a disk that is full in the middle of a write.
class SmallDisk {
 public:
  explicit SmallDisk(rlim_t bytes) : handler_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit = {bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~SmallDisk() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

 private:
  void (*handler_)(int);
  rlimit before_ = {};
};

TEST(Files, WhatIsAtAPath) {
  const TempFolder folder;
  const std::filesystem::path file = folder.path() / "file", dangling = folder.path() / "dangling";
  write_file_atomic(file, "text");
  std::filesystem::create_symlink("nothing", dangling);
  std::filesystem::create_directory_symlink(folder.path(), folder.path() / "link");
  EXPECT_TRUE(is_there(file) && !is_folder(file));
  EXPECT_TRUE(is_there(folder.path()) && is_folder(folder.path()) && is_folder(folder.path() / "link"));
  for (const auto& path : {dangling, folder.path() / "nothing", file / "below", std::filesystem::path()}) {
    EXPECT_FALSE(is_there(path) || is_folder(path)) << path;
  }
  const std::string name(256, 'x');
  for (const auto& look : {is_there, is_folder}) {
    const std::string message = message_of([&] { look(folder.path() / name); });
    EXPECT_NE(message.find(name + ": cannot be looked up: File name too long"), std::string::npos) << message;
  }
}

/// Runs `work` in a process without the rights of root, who may enter and write everything; true where it found all as it
/// should be.
bool holds_without_rights(const std::function<bool()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    const bool has_none = ::geteuid() != 0 || ::setresuid(65534, 65534, 65534) == 0;
    ::_exit(has_none && work() ? 0 : 1);
  }
  int status = 0;
  return child > 0 && ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(Folders, AreMadeListedAndRemoved) {
  const TempFolder folder;
  make_folders(folder / "a/b");
  make_folders(folder / "a/b");
  make_folders("");
  write_file_atomic(folder / "a/b/file", "text");
  ASSERT_EQ(list_folder(folder / "a").size(), 1u);
  EXPECT_EQ(list_folder(folder / "a")[0].path(), folder / "a/b");
  remove_tree(folder / "a");
  remove_tree(folder / "a");
  EXPECT_TRUE(list_folder(folder.path()).empty());
}

TEST(Folders, NameWhatTheyAreNot) {
  const TempFolder folder;
  const std::filesystem::path file = folder.put("file", ""), missing = folder / "missing";
  EXPECT_EQ(message_of([&] { list_folder(missing); }),
            missing.string() + ": cannot be listed: No such file or directory");
  EXPECT_EQ(message_of([&] { list_folder(file); }), file.string() + ": cannot be listed: Not a directory");
  EXPECT_EQ(message_of([&] { make_folders(file / "x"); }), (file / "x").string() + ": cannot be made: Not a directory");
  EXPECT_EQ(message_of<Failure>([&] { rename_over(missing, file); }),
            file.string() + ": cannot be replaced: No such file or directory");
}

TEST(Folders, NameWhatMayNotBeDone) {
  const TempFolder folder;
  make_folders(folder / "shut/inside");
  const std::filesystem::path shut = folder / "shut", below = shut / "new/below";
  ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
  ASSERT_EQ(::chmod(shut.c_str(), 0), 0);
  const auto says = [](const std::filesystem::path& path, const char* done, const auto& work) {
    return message_of(work) == concat(path.string(), ": cannot be ", done, ": Permission denied");
  };
  EXPECT_TRUE(holds_without_rights([&] { return says(shut, "listed", [&] { list_folder(shut); }); }));
  EXPECT_TRUE(holds_without_rights([&] { return says(below, "made", [&] { make_folders(below); }); }));
  EXPECT_TRUE(holds_without_rights([&] { return says(shut, "removed", [&] { remove_tree(shut); }); }));
  ASSERT_EQ(::chmod(shut.c_str(), 0700), 0);
}

TEST(Files, NamesOfEntries) {
  for (const std::string& name : {std::string("a"), std::string("..."), std::string(255, 'x')}) {
    EXPECT_TRUE(is_file_name(name)) << name;
  }
  for (const std::string& name : {std::string(), std::string("."), std::string(".."), std::string("a/b"),
                                  std::string("/"), std::string("a\0b", 3), std::string(256, 'x')}) {
    EXPECT_FALSE(is_file_name(name)) << name;
  }
}

TEST(ReadFile, GivesEveryByte) {
  const TempFolder folder;
  const std::string text("a\0b\r\n\xff", 6);
  EXPECT_EQ(read_file(folder.put("x", text)), text);
  EXPECT_EQ(read_file(folder.put("empty", "")), "");
  const std::string large(300'000, 'x');
  EXPECT_EQ(read_file(folder.put("large", large)), large);
}

TEST(ReadFile, ReadsWhatHasNoSize) {
  EXPECT_FALSE(read_file("/proc/self/status").empty());
  const TempFolder folder;
  const std::string pipe = (folder / "pipe").string(), text(200'000, 'y');
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::thread writer([&] { std::ofstream(pipe) << text; });
  EXPECT_EQ(read_file(pipe), text);
  writer.join();
}

TEST(ReadFile, NamesWhatCannotBeRead) {
  const TempFolder folder;
  const std::string missing = (folder / "missing").string();
  EXPECT_EQ(message_of([&] { read_file(missing); }), missing + ": no such file or folder");
  EXPECT_EQ(message_of([&] { read_file(folder.path()); }), folder.path().string() + ": is a folder, not a file");
  const std::string inside = folder.put("file", "").string() + "/x";
  EXPECT_EQ(message_of([&] { read_file(inside); }), inside + ": cannot be read: Not a directory");
}

TEST(ReadFile, StopsWhereAFileHasNoEnd) {
  EXPECT_EQ(message_of([] { read_file("/dev/zero", 1 << 20); }),
            "/dev/zero: is larger than such a file can be, which is 1048576 bytes");
  const TempFolder folder;
  const std::filesystem::path path = folder.put("x", "12345");
  EXPECT_EQ(read_file(path, 5), "12345");
  EXPECT_EQ(message_of([&] { read_file(path, 4); }),
            path.string() + ": is larger than such a file can be, which is 4 bytes");
}

TEST(MappedFile, GivesEveryByte) {
  const TempFolder folder;
  const MappedFile file(folder.put("x", "some text"));
  EXPECT_EQ(as_text(file.bytes()), "some text");
  EXPECT_EQ(file.path(), folder / "x");
  EXPECT_TRUE(MappedFile(folder.put("empty", "")).bytes().empty());
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const TempFolder folder;
  const std::string missing = (folder / "missing").string(), pipe = (folder / "pipe").string();
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(message_of([&] { MappedFile file(missing); }), missing + ": no such file or folder");
  EXPECT_EQ(message_of([&] { MappedFile file(folder.path()); }), folder.path().string() + ": is a folder, not a file");
  EXPECT_EQ(message_of([&] { MappedFile file(pipe); }), pipe + ": is not a regular file");
}

TEST(FileWriter, CreatesTruncatesAndAppends) {
  const TempFolder folder;
  const std::filesystem::path path = folder.put("x", "what was there before");
  FileWriter first(path);
  first.write("one");
  first.sync();
  EXPECT_EQ(read_file(path), "one");
  first.write(" two");
  first.finish();
  FileWriter second(path, /*append=*/true);
  second.write(" three");
  second.finish();
  EXPECT_EQ(read_file(path), "one two three");
}

TEST(FileWriter, SaysThatTheDiskIsFull) {
  FileWriter full("/dev/full");
  EXPECT_EQ(message_of<Failure>([&] { full.write("x"); }), "/dev/full: cannot be written: No space left on device");
}

TEST(FileWriter, SaysWhatCannotBeOpened) {
  const TempFolder folder;
  const std::string path = (folder / "missing" / "x").string();
  EXPECT_EQ(message_of([&] { FileWriter file(path); }), path + ": cannot be written: No such file or directory");
  EXPECT_EQ(message_of([&] { FileWriter file(folder.path()); }), folder.path().string() + ": is a folder, not a file");
}

TEST(FileWriter, FinishesOnDevices) {
  FileWriter null("/dev/null");
  null.write("x");
  EXPECT_NO_THROW(null.finish());
}

TEST(FileWriter, RefusesToWriteAfterTheEnd) {
  const TempFolder folder;
  FileWriter file(folder / "x");
  file.finish();
  EXPECT_THROW(file.write("x"), Failure);
}

TEST(WriteFileAtomic, ReplacesAndLeavesNothingElse) {
  const TempFolder folder;
  write_file_atomic(folder / "x", "one");
  write_file_atomic(folder / "x", "two");
  EXPECT_EQ(read_file(folder / "x"), "two");
  EXPECT_EQ(files_in(folder), 1u);
}

TEST(WriteFileAtomic, KeepsTheOldFileWhereTheNewDoesNotFit) {
  const TempFolder folder;
  const std::filesystem::path path = folder.put("x", "old");
  std::string message;
  {
    const SmallDisk disk(1000);
    message = message_of<Failure>([&] { write_file_atomic(path, std::string(1001, 'n')); });
  }
  EXPECT_TRUE(message.ends_with(": cannot be written: File too large")) << message;
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(files_in(folder), 1u);
}

TEST(WriteFileAtomic, NamesTheFileItCannotWrite) {
  const TempFolder folder;
  EXPECT_EQ(message_of([&] { write_file_atomic(folder.path(), ""); }),
            folder.path().string() + ": is a folder, not a file");
  EXPECT_THROW(write_file_atomic(folder / "missing" / "x", ""), UserError);
  EXPECT_THROW(write_file_atomic(folder / "", ""), UserError);
}

TEST(TruncateFile, CutsToTheSize) {
  const TempFolder folder;
  const std::filesystem::path path = folder.put("x", "0123456789");
  truncate_file(path, 4);
  EXPECT_EQ(read_file(path), "0123");
  EXPECT_THROW(truncate_file(folder / "missing", 0), UserError);
}

TEST(SyncFolder, TakesFoldersOnly) {
  const TempFolder folder;
  EXPECT_NO_THROW(sync_folder(folder.path()));
  EXPECT_NO_THROW(sync_folder(""));  // the folder of a bare name
  EXPECT_THROW(sync_folder(folder / "missing"), UserError);
}

}  // namespace
}  // namespace smoe
