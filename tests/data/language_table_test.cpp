// Tables of languages from the file to the labels of a batch. What the reader says to broken ones is in tests/formats.
#include "smoe/data/language_table.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <string>
#include <vector>

#include "smoe/base/error.h"
#include "smoe/base/sha256.h"
#include "smoe/data/batch_stream.h"
#include "tests/base/temp_folder.h"
#include "tests/data/corpus_text.h"

namespace smoe {
namespace {

using testing::text_of;

std::string entry(const std::string& name, const std::string& files, const std::string& family = "") {
  return "[language." + name + "]\nfiles = " + files + "\n" + (family.empty() ? "" : "family = '" + family + "'\n");
}

/// A text of `size` bytes, each `letter`.
// NOLINTNEXTLINE(modernize-return-braced-init-list): in braces they would be two letters
std::string letters(char letter, size_t size) { return std::string(size, letter); }

class LanguageTables : public ::testing::Test {
 protected:
  std::filesystem::path put_table(const std::string& text) const { return folder_.put("languages.toml", text); }
  std::string refusal(const std::string& text) const {
    const std::filesystem::path path = put_table(text);
    const std::string message = message_of([&] { CorpusFiles{path}; }), name = path.string();
    EXPECT_TRUE(message.starts_with(name)) << message;
    return message.substr(std::min(message.size(), name.size()));
  }

  TempFolder folder_;
};

TEST_F(LanguageTables, AreReadInTheirOrder) {
  const LanguageTable table = read_language_table(
      put_table("families = ['romance', 'germanic']\n" + entry("en", "['en.txt']", "germanic") +
                entry("fr", "['fr.txt', 'fr/*']", "romance") + entry("de", "['de.txt']", "germanic")));
  EXPECT_EQ(table.families, (std::vector<std::string>{"romance", "germanic"}));
  ASSERT_EQ(table.languages.size(), 3u);
  EXPECT_EQ(table.languages[0].name + table.languages[1].name + table.languages[2].name, "enfrde");
  EXPECT_EQ(table.languages[0].family, 1);
  EXPECT_EQ(table.languages[1].family, 0);
  EXPECT_EQ(table.languages[2].family, 1);
  EXPECT_EQ(table.languages[1].files, (std::vector<std::string>{"fr.txt", "fr/*"}));
}

TEST_F(LanguageTables, WithoutFamiliesEachLanguageIsOne) {
  const LanguageTable table = read_language_table(put_table(entry("zu", "['a']") + entry("en", "['b']")));
  EXPECT_EQ(table.families, (std::vector<std::string>{"zu", "en"}));
  EXPECT_EQ(table.languages[0].family, 0);
  EXPECT_EQ(table.languages[1].family, 1);
}

TEST_F(LanguageTables, EachFileIsSplitAndThePiecesJoined) {
  folder_.put("en.txt", letters('e', 40) + letters('E', 4));  // 40 + 2 + 2
  folder_.put("de.txt", letters('d', 3));                     // too short for valid and test
  folder_.put("fr.txt", letters('f', 18) + "vt");
  const CorpusFiles files(
      put_table("families = ['g', 'r']\n" + entry("en", "['en.txt', 'de.txt']", "g") + entry("fr", "['fr.txt']", "r")));
  EXPECT_EQ(text_of(files, Split::kTrain), letters('e', 40) + "ddd" + letters('f', 18));
  EXPECT_EQ(text_of(files, Split::kValid), "EEv");
  EXPECT_EQ(text_of(files, Split::kTest), "EEt");
  EXPECT_EQ(files.families(), (std::vector<std::string>{"g", "r"}));
  ASSERT_EQ(files.families_of_train().size(), 2u);
  EXPECT_EQ(files.families_of_train()[0].size, 43);
  EXPECT_EQ(files.families_of_train()[1].size, 18);
  EXPECT_EQ(files.families_of_train()[1].label, 1);
}

TEST_F(LanguageTables, PatternsTakeFilesByName) {
  std::filesystem::create_directories(folder_ / "a[b]/sub");
  for (const char* name : {"a[b]/2.txt", "a[b]/10.txt", "a[b]/1.md"}) folder_.put(name, name);
  std::filesystem::create_directories(folder_ / "a[b]/3.txt");  // a folder is no text
  const std::filesystem::path path = folder_.put("a[b]/table.toml", entry("x", "['*.txt']") + entry("y", "['?.md']"));
  const auto files = language_files(read_language_table(path), path);
  ASSERT_EQ(files.size(), 2u);
  ASSERT_EQ(files[0].size(), 2u);
  EXPECT_EQ(files[0][0], folder_ / "a[b]/10.txt");
  EXPECT_EQ(files[0][1], folder_ / "a[b]/2.txt");
  EXPECT_EQ(files[1], std::vector<std::filesystem::path>{folder_ / "a[b]/1.md"});
  const std::string absolute = (folder_ / "en.txt").string();
  folder_.put("en.txt", "e");
  const std::filesystem::path other = folder_.put("other.toml", entry("en", "['" + absolute + "']"));
  EXPECT_EQ(language_files(read_language_table(other), other)[0][0], absolute);
}

TEST_F(LanguageTables, RefuseWhatIsNotThere) {
  folder_.put("a.txt", "a text");
  folder_.put("empty.txt", "");
  std::filesystem::create_directories(folder_ / "texts");
  EXPECT_EQ(refusal(entry("a", "['a.txt']") + entry("b", "['b.txt']")), ":4: 'b.txt': no such file beside the table");
  EXPECT_EQ(refusal(entry("a", "['*.text']")), ":2: '*.text' fits no file");
  EXPECT_EQ(refusal(entry("a", "['texts']")), ":2: 'texts' is a folder; 'texts/*' would be the files in it");
  EXPECT_EQ(refusal(entry("a", "['a.txt', './a.txt']")),
            ":2: 'a.txt' is a text of 'a' already; each file is read once");
  EXPECT_EQ(refusal(entry("a", "['a.txt']") + entry("b", "['texts/../a.*']")),
            ":4: 'a.txt' is a text of 'a' already; each file is read once");
  EXPECT_EQ(refusal(entry("a", "['empty.txt']")), ":2: the texts of 'a' are empty");
  EXPECT_THROW(CorpusFiles(folder_ / "none.toml"), UserError);
}

TEST_F(LanguageTables, TheChecksumKnowsWhoseTextItIs) {
  folder_.put("a.txt", letters('a', 10));
  folder_.put("b.txt", letters('b', 10));
  const std::string two = CorpusFiles(put_table(entry("a", "['a.txt']") + entry("b", "['b.txt']"))).sha256();
  const std::string text = letters('a', 10) + letters('b', 10);
  EXPECT_EQ(two, sha256_hex(as_bytes(text + "0 10\n1 10\n")));
  EXPECT_NE(CorpusFiles(put_table(entry("a", "['a.txt', 'b.txt']"))).sha256(), two);
}

TEST_F(LanguageTables, SurviveAMove) {
  folder_.put("a.txt", "abc");  // short enough to be inside an object
  CorpusFiles first(put_table(entry("a", "['a.txt']")));
  const CorpusFiles second = std::move(first);
  EXPECT_EQ(text_of(second, Split::kTrain), "abc");
}

TEST_F(LanguageTables, LabelsFollowThePacking) {
  folder_.put("a.txt", letters('a', 7));
  folder_.put("b.txt", letters('b', 12));
  folder_.put("c.txt", letters('c', 5));
  const CorpusFiles files(put_table("families = ['x', 'y']\n" + entry("a", "['a.txt']", "y") +
                                    entry("b", "['b.txt']", "x") + entry("c", "['c.txt']", "y")));
  const TokenSequence tokens(files.bytes(Split::kTrain), ByteVocabulary::bytes(), "t", files.families_of_train());
  for (const int64_t streams : {1, 2, 3, 5}) {
    for (const int64_t segment : {1, 4, 100}) {
      BatchStream stream(tokens, streams, segment, 0, streams, "t");
      for (int64_t n = 0; n < 2 * stream.segments_per_epoch(); ++n) {
        const Segment part = stream.next();
        EXPECT_TRUE(torch::equal(part.label, part.input.ne('b').to(torch::kInt64))) << part.input << part.label;
      }
    }
  }
  // Ranks have the labels of their rows.
  BatchStream second(tokens, 2, 100, 1, 1, "t");
  const Segment part = second.next();
  EXPECT_TRUE(torch::equal(part.label, part.input.ne('b').to(torch::kInt64)));
  const TokenSequence plain(files.bytes(Split::kTrain), ByteVocabulary::bytes(), "t");
  EXPECT_FALSE(BatchStream(plain, 2, 4, 0, 2, "t").next().label.defined());
}

TEST_F(LanguageTables, LabelsAreOfTokensWhereBytesVanish) {
  folder_.put("a.txt", "\na\n\na");
  folder_.put("b.txt", "b\nb");
  folder_.put("n.txt", "\n\n");  // a text without a token
  folder_.put("c.txt", "c");
  const CorpusFiles files(
      put_table(entry("a", "['a.txt']") + entry("b", "['b.txt']") + entry("n", "['n.txt']") + entry("c", "['c.txt']")));
  const ByteVocabulary vocabulary = make_vocabulary("enwik8", files);
  const TokenSequence tokens(files.bytes(Split::kTrain), vocabulary, "t", files.families_of_train());
  ASSERT_EQ(tokens.size(), 5);
  std::vector<int64_t> labels(5, -7);
  tokens.copy_labels(0, 5, labels.data());
  EXPECT_EQ(labels, (std::vector<int64_t>{0, 0, 1, 1, 3}));
  std::vector<int64_t> middle(3, -7);
  tokens.copy_labels(1, 2, middle.data());
  EXPECT_EQ(middle, (std::vector<int64_t>{0, 1, -7}));
  tokens.copy_labels(2, 0, middle.data());
}

TEST_F(LanguageTables, LabelsMustBeOfTheWholeText) {
  const std::string text = "abcdef";
  const auto make = [&](const std::vector<LabelRun>& labels) {
    return message_of([&] { TokenSequence(as_bytes(text), ByteVocabulary::bytes(), "t", labels); });
  };
  EXPECT_EQ(make({{2, 0}, {4, 1}}), "(nothing was thrown)");
  EXPECT_EQ(make({{2, 0}, {5, 1}}), "labels are of more bytes than the text has");
  EXPECT_EQ(make({{2, 0}, {3, 1}}), "labels are of 5 bytes, the text has 6");
}

}  // namespace
}  // namespace smoe
