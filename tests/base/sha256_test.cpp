#include "smoe/base/sha256.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string_view>

#include "smoe/base/plain_sha256.h"
#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

constexpr const char* kEmpty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr const char* kAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

// FIPS 180-4's examples.
TEST(Sha256, GivesTheKnownAnswers) {
  EXPECT_EQ(sha256_hex({}), kEmpty);
  EXPECT_EQ(sha256_hex(as_bytes("abc")), kAbc);
  EXPECT_EQ(sha256_hex(as_bytes(std::string(1'000'000, 'a'))),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, TakesBytesInPieces) {
  Sha256 digest;
  digest.update(as_bytes("a"));
  digest.update({});
  digest.update(as_bytes("bc"));
  EXPECT_EQ(digest.finish(), kAbc);
}

TEST(Sha256, WrittenOutIsTheSame) {
  std::mt19937 random(3);
  for (size_t size = 0; size < 300; ++size) {
    std::string bytes(size * size / 40, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    PlainSha256 digest;
    for (size_t begin = 0; begin < bytes.size();) {
      const size_t piece = std::min<size_t>(1 + random() % 150, bytes.size() - begin);
      digest.update(as_bytes(std::string_view(bytes).substr(begin, piece)));
      begin += piece;
    }
    EXPECT_EQ(hexadecimal(digest.finish()), sha256_hex(as_bytes(bytes))) << bytes.size();
  }
  PlainSha256 abc;
  abc.update(as_bytes("abc"));
  EXPECT_EQ(hexadecimal(abc.finish()), kAbc);
}

TEST(Sha256, ReadsFiles) {
  const TempFolder folder;
  EXPECT_EQ(sha256_file(folder.put("abc", "abc")), kAbc);
  EXPECT_EQ(sha256_file(folder.put("empty", "")), kEmpty);
  EXPECT_THROW(sha256_file(folder / "missing"), UserError);
}

}  // namespace
}  // namespace smoe
