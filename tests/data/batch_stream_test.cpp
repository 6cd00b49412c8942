// Properties of the streams over random sizes, and texts in the enwik8 convention from the file to the batch; the rest
// is in corpus_test.cpp.
#include "smoe/data/batch_stream.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <random>
#include <type_traits>

#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

static_assert(!std::is_copy_constructible_v<TokenSequence>, "a copy would look into the first one's ids");

std::string random_text(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

int64_t id_at(const std::string& text, int64_t place) { return static_cast<uint8_t>(text[static_cast<size_t>(place)]); }

TEST(BatchStream, AnEpochPredictsEveryTokenOfEveryStreamOnceAndInOrder) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 100; ++i) {
    const int64_t streams = 1 + static_cast<int64_t>(random() % 7), segment = 1 + static_cast<int64_t>(random() % 20);
    const int64_t size = streams * 2 + static_cast<int64_t>(random() % 150);
    SCOPED_TRACE(concat(streams, " streams of ", size, " tokens, segments of ", segment));
    const std::string text = random_text(static_cast<size_t>(size), random());
    const TokenSequence tokens(as_bytes(text), ByteVocabulary::bytes(), "t");
    BatchStream stream(tokens, streams, segment, 0, streams, "t");
    const int64_t length = size / streams;
    ASSERT_EQ(stream.targets_per_row(), length - 1);
    for (int64_t epoch = 0; epoch < 2; ++epoch) {
      int64_t read = 0;
      for (int64_t n = 0; n < stream.segments_per_epoch(); ++n) {
        const Segment part = stream.next();
        ASSERT_EQ(part.starts_epoch, n == 0);
        ASSERT_EQ(part.input.size(1), std::min(segment, length - 1 - read));
        for (int64_t row = 0; row < streams; ++row) {
          for (int64_t s = 0; s < part.input.size(1); ++s) {
            ASSERT_EQ(part.input[row][s].item<int64_t>(), id_at(text, row * length + read + s));
            ASSERT_EQ(part.target[row][s].item<int64_t>(), id_at(text, row * length + read + s + 1));
          }
        }
        read += part.input.size(1);
        ASSERT_EQ(stream.position().offset, read);
        ASSERT_EQ(stream.position().epoch, epoch);
      }
      ASSERT_EQ(read, length - 1);
    }
  }
}

TEST(BatchStream, ResumesAtEverySegmentOfTwoEpochs) {
  const std::string text = random_text(123, 2);
  const TokenSequence tokens(as_bytes(text), ByteVocabulary::bytes(), "t");
  for (int64_t stop = 0; stop < 22; ++stop) {
    BatchStream stream(tokens, 3, 4, 0, 3, "t"), resumed(tokens, 3, 4, 0, 3, "t");
    for (int64_t n = 0; n < stop; ++n) stream.next();
    resumed.seek(stream.position());
    for (int64_t n = 0; n < 12; ++n) {
      const Segment a = stream.next(), b = resumed.next();
      ASSERT_TRUE(torch::equal(a.input, b.input) && torch::equal(a.target, b.target)) << stop << " " << n;
      ASSERT_EQ(a.starts_epoch, b.starts_epoch);
      ASSERT_EQ(stream.position().epoch, resumed.position().epoch);
    }
  }
}

TEST(BatchStream, RowsOfAnyCutIntoRanksMakeTheWhole) {
  const std::string text = random_text(200, 3);
  const TokenSequence tokens(as_bytes(text), ByteVocabulary::bytes(), "t");
  for (const std::vector<int64_t>& cut : {std::vector<int64_t>{6}, {3, 3}, {1, 5}, {2, 1, 3}, {1, 1, 1, 1, 1, 1}}) {
    BatchStream whole(tokens, 6, 9, 0, 6, "t");
    std::vector<BatchStream> ranks;
    int64_t first = 0;
    for (const int64_t rows : cut) {
      ranks.emplace_back(tokens, 6, 9, first, rows, "t");
      first += rows;
    }
    for (int n = 0; n < 10; ++n) {
      std::vector<at::Tensor> inputs, targets;
      for (BatchStream& rank : ranks) {
        const Segment share = rank.next();
        inputs.push_back(share.input);
        targets.push_back(share.target);
      }
      const Segment all = whole.next();
      ASSERT_TRUE(torch::equal(torch::cat(inputs), all.input) && torch::equal(torch::cat(targets), all.target));
    }
  }
}

TEST(BatchStream, RefusesWhatCannotBeABatch) {
  const std::string text = random_text(20, 4);
  const TokenSequence tokens(as_bytes(text), ByteVocabulary::bytes(), "t");
  const auto refuses = [&](int64_t streams, int64_t segment, int64_t first, int64_t rows, const std::string& part) {
    const std::string message = message_of([&] { BatchStream(tokens, streams, segment, first, rows, "x.txt"); });
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  refuses(11, 4, 0, 11, "x.txt has 20 tokens; 11 streams need at least two each");
  refuses(0, 4, 0, 0, "at least one stream");
  refuses(2, 0, 0, 2, "at least one token");
  refuses(4, 4, 3, 2, "rows 3 to 5 are not among the 4 streams");
  refuses(4, 4, -1, 2, "rows -1 to 1");
  refuses(4, 4, 0, 0, "rows 0 to 0");
  BatchStream whole_row(tokens, 10, 4, 0, 10, "t");  // two tokens each are enough
  EXPECT_EQ(whole_row.segments_per_epoch(), 1);
  EXPECT_TRUE(whole_row.next().starts_epoch);
  EXPECT_TRUE(whole_row.next().starts_epoch);
  const TokenSequence none(as_bytes(""), ByteVocabulary::bytes(), "t");
  EXPECT_THROW(BatchStream(none, 1, 1, 0, 1, "t"), UserError);
}

TEST(TokenSequence, SurvivesAMove) {
  const std::string text = "abracadabra";
  TokenSequence first(as_bytes(text), ByteVocabulary::enwik8({as_bytes(text)}), "t");
  const TokenSequence second = std::move(first);
  ASSERT_EQ(second.size(), 11);
  EXPECT_EQ(second.data()[0], 0);  // a, the most frequent
  EXPECT_EQ(second.data()[10], 0);
}

TEST(CorpusFiles, SplitsOfEverySizeCoverTheText) {
  const TempFolder folder;
  for (size_t size = 0; size < 130; ++size) {
    const std::string text = random_text(size, size);
    const CorpusFiles files(folder.put("text", text));
    std::string joined;
    for (const Bytes part : files.parts()) joined += as_text(part);
    ASSERT_EQ(joined, text);
    ASSERT_EQ(files.bytes(Split::kValid).size(), size / 20);
    ASSERT_EQ(files.bytes(Split::kTest).size(), size / 20);
  }
}

TEST(CorpusFiles, SplitsEnwik8AsItIsPublished) {
  const TempFolder folder;
  std::filesystem::resize_file(folder.put("enwik8", ""), 100000000);  // sparse, never read
  const CorpusFiles files(folder / "enwik8");
  EXPECT_EQ(files.bytes(Split::kTrain).size(), 90000000u);
  EXPECT_EQ(files.bytes(Split::kValid).size(), 5000000u);
  EXPECT_EQ(files.bytes(Split::kTest).size(), 5000000u);
}

TEST(CorpusFiles, OtherFilesOfAFolderDoNotMatter) {
  const TempFolder folder;
  for (const char* name : {"train.txt", "valid.txt", "test.txt", "train2.txt", "README", "training.txt"}) {
    folder.put(name, name);
  }
  std::filesystem::create_directory(folder / "test");
  const CorpusFiles files(folder.path());
  EXPECT_EQ(as_text(files.bytes(Split::kTest)), "test.txt");
  EXPECT_EQ(files.path(), folder.path().string());
}

TEST(CorpusFiles, SplitNames) {
  for (const Split split : {Split::kTrain, Split::kValid, Split::kTest})
    EXPECT_EQ(parse_split(split_name(split)), split);
  EXPECT_NE(message_of([] { parse_split("vaild"); }).find("did you mean 'valid'?"), std::string::npos);
}

TEST(Corpus, AGeneratedEnwik8FileOfKnownCounts) {
  // 2 000 lines of 20 bytes: a line break at every 20th place. 90 % are 36 000 bytes, 5 % are 2 000.
  const TempFolder folder;
  std::string text;
  for (int line = 0; line < 2000; ++line) {
    std::string words = "the cat sat on a mat";
    words.back() = '\n';
    if (line == 1999) words[0] = '\xC3';  // a byte that only the test part has
    text += words;
  }
  const CorpusFiles files(folder.put("text", text));
  const ByteVocabulary vocabulary = make_vocabulary("enwik8", files);
  // Of a line: 5 spaces, 4 a, 3 t (its last one is the line break), and c e h m n o s once: h e c s o n m by appearance.
  std::string order;
  for (int64_t id = 0; id < vocabulary.size(); ++id) order += static_cast<char>(vocabulary.byte(id));
  EXPECT_EQ(order, " athecsonm\xC3");
  const auto tokens = [&](Split split) { return TokenSequence(files.bytes(split), vocabulary, "t").size(); };
  EXPECT_EQ(tokens(Split::kTrain), 36000 / 20 * 19);
  EXPECT_EQ(tokens(Split::kValid), 2000 / 20 * 19);
  EXPECT_EQ(tokens(Split::kTest), 2000 / 20 * 19);
  // A model that never saw that byte in any part says so.
  const ByteVocabulary of_train = ByteVocabulary::enwik8({files.bytes(Split::kTrain)});
  const std::string message = message_of([&] { TokenSequence(files.bytes(Split::kTest), of_train, "text (test)"); });
  EXPECT_NE(message.find("text (test): byte 0xC3 at offset 1980"), std::string::npos) << message;

  EXPECT_TRUE(make_vocabulary("bytes", files).is_identity());
  EXPECT_NE(message_of([&] { make_vocabulary("enwik9", files); }).find("did you mean 'enwik8'?"), std::string::npos);
}

}  // namespace
}  // namespace smoe
