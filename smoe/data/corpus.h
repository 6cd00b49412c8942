// A text on disk, split into train, valid and test, as tokens.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "smoe/base/config.h"
#include "smoe/base/file.h"
#include "smoe/data/tokenizers/byte_vocabulary.h"

namespace smoe {

/// The table [data] of a recipe.
struct DataConfig {
  std::string path;
  std::string format = "bytes";

  void describe(Fields& fields);
};

enum class Split { kTrain, kValid, kTest };

/// "train", "valid", "test".
std::string split_name(Split split);
/// Throws UserError with the nearest name.
Split parse_split(const std::string& name);

/// So many bytes, or tokens, one after the other that have the same label.
struct LabelRun {
  int64_t size = 0;
  int64_t label = 0;
};

/// A text, memory-mapped. A file is split by position, the first 90 % train, the next 5 % valid, the last 5 % test; of a
/// folder, the files train, valid and test (any extension, one file each) are taken as they are. The files of a table of
/// languages (language_table.h) are each split by position, and the pieces of a split stand behind one another, language by
/// language; these texts are in memory.
class CorpusFiles {
 public:
  /// Throws UserError where the file or one of the folder's or table's files is missing or not readable.
  explicit CorpusFiles(const std::filesystem::path& path);

  const std::string& path() const { return path_; }
  Bytes bytes(Split split) const { return split_[static_cast<size_t>(split)]; }
  std::vector<Bytes> parts() const { return {split_.begin(), split_.end()}; }
  /// The families that the languages of a table belong to; none of any other text.
  const std::vector<std::string>& families() const { return families_; }
  /// Whose bytes are whose, by the number of the language's family, in train; what is held out has no labels, since
  /// inference has none.
  const std::vector<LabelRun>& families_of_train() const { return runs_; }
  /// SHA-256 of the bytes of train, valid and test, one after the other, and of a table then "LABEL SIZE\n" of each run.
  /// Reads the whole text.
  std::string sha256() const;

 private:
  void read_table(const std::filesystem::path& path);

  std::string path_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::array<std::vector<std::byte>, 3> joined_;  // the texts of a table
  std::array<Bytes, 3> split_;
  std::vector<std::string> families_;
  std::vector<LabelRun> runs_;
};

/// One split as a sequence of token ids below 256. With byte tokens it is the mapped file itself, whatever its size.
class TokenSequence {
 public:
  /// `source` names the text in messages ("data/x.txt, valid"); `labels` are of its bytes, in order, and none or of all.
  TokenSequence(Bytes text, const ByteVocabulary& vocabulary, const std::string& source,
                const std::vector<LabelRun>& labels = {});
  ~TokenSequence() = default;
  TokenSequence(TokenSequence&&) = default;
  TokenSequence& operator=(TokenSequence&&) = default;
  TokenSequence(const TokenSequence&) = delete;  // a copy would look into the first one's ids
  TokenSequence& operator=(const TokenSequence&) = delete;

  int64_t size() const { return static_cast<int64_t>(ids_.size()); }
  const uint8_t* data() const { return ids_.data(); }

  bool has_labels() const { return !labels_.empty(); }
  /// Writes the labels of the tokens first … first + count − 1, which must be there.
  void copy_labels(int64_t first, int64_t count, int64_t* to) const;

 private:
  std::vector<uint8_t> owned_;
  std::span<const uint8_t> ids_;
  std::vector<LabelRun> labels_;  // of tokens
};

/// The vocabulary that a format gives a text; throws UserError for a format that is not known.
ByteVocabulary make_vocabulary(const std::string& format, const CorpusFiles& files);

}  // namespace smoe
