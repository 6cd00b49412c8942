#include "smoe/data/corpus.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <map>
#include <string>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/sha256.h"
#include "smoe/data/batch_stream.h"
#include "tests/base/temp_folder.h"
#include "tests/data/corpus_text.h"

namespace smoe {
namespace {

using testing::text_of;

TEST(ByteVocabulary, AllBytesAreTheirOwnIds) {
  const ByteVocabulary vocabulary = ByteVocabulary::bytes();
  EXPECT_EQ(vocabulary.size(), 256);
  EXPECT_TRUE(vocabulary.is_identity());
  for (int byte = 0; byte < 256; ++byte) EXPECT_EQ(vocabulary.id(static_cast<uint8_t>(byte)), byte);
}

TEST(ByteVocabulary, TheEnwik8ConventionOnATextOfKnownCounts) {
  // b four times, a and c twice each with a first, d once, and line breaks, which are no tokens; d only in the last part.
  const std::string train = "ab\nbc\n\nab", valid = "cb\n", test = "d";
  const ByteVocabulary vocabulary = ByteVocabulary::enwik8({as_bytes(train), as_bytes(valid), as_bytes(test)});
  ASSERT_EQ(vocabulary.size(), 4);
  EXPECT_EQ(std::string({static_cast<char>(vocabulary.byte(0)), static_cast<char>(vocabulary.byte(1)),
                         static_cast<char>(vocabulary.byte(2)), static_cast<char>(vocabulary.byte(3))}),
            "bacd");
  EXPECT_EQ(vocabulary.encode(as_bytes(train), "train"), (std::vector<uint8_t>{1, 0, 0, 2, 1, 0}));
  EXPECT_TRUE(vocabulary.drops('\n'));
  EXPECT_FALSE(vocabulary.is_identity());
}

TEST(ByteVocabulary, AnUnknownByteIsNamedWithItsOffset) {
  const std::string known = "abc", text = "ab\nx";
  const ByteVocabulary vocabulary = ByteVocabulary::enwik8({as_bytes(known)});
  const std::string message = message_of<UserError>([&] { vocabulary.encode(as_bytes(text), "x.txt"); });
  EXPECT_NE(message.find("x.txt: byte 0x78 at offset 3"), std::string::npos) << message;
}

TEST(ByteVocabulary, JsonRoundTripAndBrokenJson) {
  const std::string text = "hello, world";
  const ByteVocabulary vocabulary = ByteVocabulary::enwik8({as_bytes(text)});
  const ByteVocabulary read = ByteVocabulary::from_json(vocabulary.to_json(), "t");
  EXPECT_EQ(read.to_json(), vocabulary.to_json());
  EXPECT_EQ(read.encode(as_bytes(text), "t"), vocabulary.encode(as_bytes(text), "t"));
  for (const char* broken : {R"([])", R"({"format":"bytes"})", R"({"format":"words","bytes":[]})",
                             R"({"format":"enwik8","bytes":[1,1]})", R"({"format":"enwik8","bytes":[256]})",
                             R"({"format":"enwik8","bytes":[-1]})", R"({"format":"enwik8","bytes":["a"]})",
                             R"({"format":"enwik8","bytes":[1],"more":2})", R"({"format":"bytes","bytes":[1]})"}) {
    EXPECT_THROW(ByteVocabulary::from_json(nlohmann::ordered_json::parse(broken), "t"), UserError) << broken;
  }
}

TEST(CorpusFiles, AFileIsSplitByPosition) {
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 1000; ++i) text += static_cast<char>('a' + i % 26);
  const CorpusFiles files(folder.put("text", text));
  EXPECT_EQ(text_of(files, Split::kTrain), text.substr(0, 900));
  EXPECT_EQ(text_of(files, Split::kValid), text.substr(900, 50));
  EXPECT_EQ(text_of(files, Split::kTest), text.substr(950));
  EXPECT_EQ(files.sha256(), sha256_hex(as_bytes(text)));
}

TEST(CorpusFiles, AFolderIsTakenAsItIs) {
  const TempFolder folder;
  folder.put("train.txt", "tr");
  folder.put("valid", "va");
  folder.put("test.raw", "te");
  const CorpusFiles files(folder.path());
  EXPECT_EQ(text_of(files, Split::kTrain) + text_of(files, Split::kValid) + text_of(files, Split::kTest), "trvate");
  folder.put("test.txt", "again");
  EXPECT_NE(message_of<UserError>([&] { CorpusFiles{folder.path()}; }).find("more than one"), std::string::npos);
  std::filesystem::remove(folder / "valid");
  std::filesystem::remove(folder / "test.txt");
  EXPECT_NE(message_of<UserError>([&] { CorpusFiles{folder.path()}; }).find("'valid'"), std::string::npos);
}

TEST(CorpusFiles, EmptyTinyAndMissing) {
  const TempFolder folder;
  const CorpusFiles empty(folder.put("empty", ""));
  EXPECT_TRUE(empty.bytes(Split::kTrain).empty());
  const CorpusFiles tiny(folder.put("tiny", "abc"));
  EXPECT_EQ(text_of(tiny, Split::kTrain), "abc");
  EXPECT_THROW(CorpusFiles(folder / "missing"), UserError);
  EXPECT_THROW(CorpusFiles(""), UserError);
}

TEST(TokenSequence, BytesAreTheMappedFileItself) {
  const std::string text = "any\nbytes\xFF";
  const TokenSequence tokens(as_bytes(text), ByteVocabulary::bytes(), "t");
  EXPECT_EQ(static_cast<const void*>(tokens.data()), static_cast<const void*>(text.data()));
  EXPECT_EQ(tokens.size(), static_cast<int64_t>(text.size()));
}

// ---- batches

struct Text {
  explicit Text(int64_t size) : bytes(static_cast<size_t>(size), '\0') {
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i % 251);
    tokens = std::make_unique<TokenSequence>(as_bytes(bytes), ByteVocabulary::bytes(), "t");
  }
  std::string bytes;
  std::unique_ptr<TokenSequence> tokens;
};

TEST(BatchStream, RowsAreContiguousAndTargetsOneLater) {
  const Text text(103);
  BatchStream stream(*text.tokens, 4, 10, 0, 4, "t");  // 25 tokens a row; three are left over
  EXPECT_EQ(stream.targets_per_row(), 24);
  EXPECT_EQ(stream.segments_per_epoch(), 3);
  std::vector<int64_t> seen(4, 0);
  for (const int64_t size : {10, 10, 4}) {
    const Segment segment = stream.next();
    ASSERT_EQ(segment.input.sizes(), at::IntArrayRef({4, size}));
    EXPECT_EQ(segment.starts_epoch, seen[0] == 0);
    for (int64_t row = 0; row < 4; ++row) {
      for (int64_t i = 0; i < size; ++i) {
        const int64_t place = row * 25 + seen[static_cast<size_t>(row)]++;
        EXPECT_EQ(segment.input[row][i].item<int64_t>(), place % 251);
        EXPECT_EQ(segment.target[row][i].item<int64_t>(), (place + 1) % 251);
      }
    }
  }
  EXPECT_EQ(seen[0], 24);
  EXPECT_TRUE(stream.next().starts_epoch);
  EXPECT_EQ(stream.position().epoch, 1);
}

TEST(BatchStream, GoesOnFromASavedPosition) {
  const Text text(200);
  BatchStream stream(*text.tokens, 3, 7, 0, 3, "t");
  for (int i = 0; i < 13; ++i) stream.next();
  BatchStream again(*text.tokens, 3, 7, 0, 3, "t");
  again.seek(stream.position());
  for (int i = 0; i < 25; ++i) EXPECT_TRUE(torch::equal(stream.next().input, again.next().input));
  EXPECT_THROW(again.seek({.offset = 1000, .epoch = 0}), UserError);
  EXPECT_THROW(again.seek({.offset = -1, .epoch = 0}), UserError);
}

TEST(BatchStream, RanksShareTheRows) {
  const Text text(200);
  BatchStream whole(*text.tokens, 4, 7, 0, 4, "t"), first(*text.tokens, 4, 7, 0, 1, "t"),
      rest(*text.tokens, 4, 7, 1, 3, "t");
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(torch::equal(whole.next().target, torch::cat({first.next().target, rest.next().target})));
  }
}

TEST(BatchStream, SegmentsOfThePublishedRun) {
  // 88,982,818 tokens in 22 streams of segments of 512: 7,900 segments, the last of 384. No byte of it is read.
  const TempFolder folder;
  const std::filesystem::path path = folder.put("sparse", "");
  std::filesystem::resize_file(path, 88982818);
  const MappedFile file(path);
  const TokenSequence tokens(file.bytes(), ByteVocabulary::bytes(), "t");
  constexpr int64_t kSegment = 512;
  BatchStream stream(tokens, 22, kSegment, 0, 22, "t");
  EXPECT_EQ(stream.segments_per_epoch(), 7900);
  stream.seek({.offset = 7899 * kSegment, .epoch = 0});
  EXPECT_EQ(stream.next().input.size(1), 384);
}

TEST(BatchStream, TooShortATextIsNamed) {
  const Text text(7);
  const std::string message =
      message_of<UserError>([&] { BatchStream(*text.tokens, 4, 10, 0, 4, "short.txt (train)"); });
  EXPECT_NE(message.find("short.txt (train) has 7 tokens"), std::string::npos) << message;
}

}  // namespace
}  // namespace smoe
