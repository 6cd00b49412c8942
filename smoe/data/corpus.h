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

/// A text, memory-mapped. A file is split by position, the first 90 % train, the next 5 % valid, the last 5 % test; of a
/// folder, the files train, valid and test (any extension, one file each) are taken as they are.
class CorpusFiles {
 public:
  /// Throws UserError where the file or one of the folder's files is missing or not readable.
  explicit CorpusFiles(const std::filesystem::path& path);

  const std::string& path() const { return path_; }
  Bytes bytes(Split split) const { return split_[static_cast<size_t>(split)]; }
  std::vector<Bytes> parts() const { return {split_.begin(), split_.end()}; }
  /// SHA-256 of the bytes of train, valid and test, one after the other. Reads the whole text.
  std::string sha256() const;

 private:
  std::string path_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::array<Bytes, 3> split_;
};

/// One split as a sequence of token ids below 256. With byte tokens it is the mapped file itself, whatever its size.
class TokenSequence {
 public:
  /// `source` names the text in messages ("data/x.txt, valid").
  TokenSequence(Bytes text, const ByteVocabulary& vocabulary, const std::string& source);
  ~TokenSequence() = default;
  TokenSequence(TokenSequence&&) = default;
  TokenSequence& operator=(TokenSequence&&) = default;
  TokenSequence(const TokenSequence&) = delete;  // a copy would look into the first one's ids
  TokenSequence& operator=(const TokenSequence&) = delete;

  int64_t size() const { return static_cast<int64_t>(ids_.size()); }
  const uint8_t* data() const { return ids_.data(); }

 private:
  std::vector<uint8_t> owned_;
  std::span<const uint8_t> ids_;
};

/// The vocabulary that a format gives a text; throws UserError for a format that is not known.
ByteVocabulary make_vocabulary(const std::string& format, const CorpusFiles& files);

}  // namespace smoe
