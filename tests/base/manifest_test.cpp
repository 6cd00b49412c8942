#include "smoe/base/manifest.h"

#include <gtest/gtest.h>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/sha256.h"
#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

class ManifestTest : public testing::Test {
 protected:
  ManifestTest() {
    folder_.put("a.bin", "some bytes");
    folder_.put("b \"quoted\".json", "");
    std::filesystem::create_directory(folder_ / "folder");
    write_manifest(folder_.path());
  }

  /// The message of verify_manifest, with the folder's name taken off.
  std::string fault() const {
    const std::string message = message_of([&] { verify_manifest(folder_.path()); });
    const std::string prefix = folder_.path().string() + "/";
    return message.starts_with(prefix) ? message.substr(prefix.size()) : message;
  }

  TempFolder folder_;
};

TEST_F(ManifestTest, AcceptsWhatItWrote) {
  EXPECT_NO_THROW(verify_manifest(folder_.path()));
  write_manifest(folder_.path());  // the manifest is no part of itself
  EXPECT_NO_THROW(verify_manifest(folder_.path()));
}

TEST_F(ManifestTest, IsDocumented) {
  EXPECT_EQ(read_file(folder_ / kManifestName),
            "{\n  \"format\": \"smoe-manifest\",\n  \"version\": 1,\n  \"files\": {\n"
            "    \"a.bin\": {\n      \"size\": 10,\n      \"sha256\": \"" +
                sha256_hex(as_bytes("some bytes")) +
                "\"\n    },\n"
                "    \"b \\\"quoted\\\".json\": {\n      \"size\": 0,\n      \"sha256\": \"" +
                sha256_hex({}) + "\"\n    }\n  }\n}\n");
}

TEST_F(ManifestTest, NamesTheFileThatIsWrong) {
  folder_.put("a.bin", "some byteS");
  EXPECT_EQ(fault(), "a.bin: sha256 is " + sha256_hex(as_bytes("some byteS")) + ", manifest.json says " +
                         sha256_hex(as_bytes("some bytes")));
  folder_.put("a.bin", "some");
  EXPECT_EQ(fault(), "a.bin is 4 bytes, manifest.json says 10");
  std::filesystem::remove(folder_ / "a.bin");
  EXPECT_EQ(fault(), "a.bin is missing");
}

TEST_F(ManifestTest, NamesTheFileThatWasAdded) {
  folder_.put("c", "");
  EXPECT_EQ(fault(), "c is not listed in manifest.json");
}

TEST_F(ManifestTest, NoticesEveryChangedByteOfEveryFile) {
  for (const char* name : {"a.bin", kManifestName}) {
    const std::string text = read_file(folder_ / name);
    for (size_t i = 0; i < text.size(); ++i) {
      for (const char flip : {1, 4, 32}) {
        std::string changed = text;
        changed[i] = static_cast<char>(changed[i] ^ flip);
        folder_.put(name, changed);
        EXPECT_THROW(verify_manifest(folder_.path()), UserError) << name << " byte " << i << " flip " << int{flip};
      }
    }
    folder_.put(name, text);
  }
  EXPECT_NO_THROW(verify_manifest(folder_.path()));
}

TEST_F(ManifestTest, NoticesATruncatedManifest) {
  const std::string text = read_file(folder_ / kManifestName);
  for (size_t size = 0; size < text.size(); ++size) {
    folder_.put(kManifestName, text.substr(0, size));
    EXPECT_THROW(verify_manifest(folder_.path()), UserError) << size;
  }
}

TEST_F(ManifestTest, SaysThatThereIsNone) {
  std::filesystem::remove(folder_ / kManifestName);
  EXPECT_EQ(fault(), "manifest.json: no such file or folder");
  folder_.put(kManifestName, "{\"format\": \"smoe-manifest\", \"version\": 2, \"files\": {}}");
  EXPECT_EQ(fault(), "manifest.json: has a version that this build does not know; it knows 1");
  folder_.put(kManifestName, "{\"files\": {}}");
  EXPECT_EQ(fault(), "manifest.json: is damaged or not a manifest of smoe");
  EXPECT_THROW(write_manifest(folder_ / "missing"), UserError);
}

TEST(MakeFolderAtomic, MakesAWholeFolderOrNone) {
  const TempFolder folder;
  const std::filesystem::path made = folder / "missing/above/made";
  EXPECT_THROW(make_folder_atomic(made, [](const auto&) { throw Failure("no"); }), Failure);
  EXPECT_TRUE(list_folder(made.parent_path()).empty());
  make_folder_atomic(made, [](const auto& inside) { write_file_atomic(inside / "x", "text"); });
  EXPECT_NO_THROW(verify_manifest(made));
  EXPECT_EQ(read_file(made / "x"), "text");
  EXPECT_EQ(list_folder(made.parent_path()).size(), 1u);
  EXPECT_EQ(message_of([&] { make_folder_atomic(made, [](const auto&) {}); }), made.string() + ": is there already");
  const std::string file = (made / "x").string();
  EXPECT_EQ(message_of([&] { make_folder_atomic(file + "/below", [](const auto&) {}); }),
            file + ": cannot be made: Not a directory");
}

}  // namespace
}  // namespace smoe
