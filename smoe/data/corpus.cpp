#include "smoe/data/corpus.h"

#include <algorithm>
#include <array>

#include "smoe/base/error.h"
#include "smoe/base/sha256.h"
#include "smoe/base/suggest.h"

namespace smoe {
namespace {

constexpr std::array<const char*, 3> kSplitNames = {"train", "valid", "test"};
const std::vector<std::string> kFormats = {"bytes", "enwik8"};

/// The one regular file of `folder` whose name without extension is `stem`.
std::filesystem::path file_of_split(const std::filesystem::path& folder, const std::string& stem) {
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.is_regular_file() && entry.path().stem() == stem) found.push_back(entry.path());
  }
  require(!found.empty(), folder.string(), ": the folder has no file '", stem,
          "'; a data folder holds train, valid and test (any extension)");
  require(found.size() == 1, folder.string(), ": more than one file is called '", stem, "', with different extensions");
  return found[0];
}

}  // namespace

void DataConfig::describe(Fields& fields) {
  fields.add("path", &path, "text file, or folder with train, valid and test; --data sets it");
  fields.add("format", &format, "how bytes become tokens: all 256, or the enwik8 convention", one_of(kFormats));
}

std::string split_name(Split split) { return kSplitNames[static_cast<size_t>(split)]; }

Split parse_split(const std::string& name) {
  for (size_t i = 0; i < kSplitNames.size(); ++i) {
    if (name == kSplitNames[i]) return static_cast<Split>(i);
  }
  throw UserError("split '" + name + "' is not known" + suggest(name, {kSplitNames.begin(), kSplitNames.end()}));
}

CorpusFiles::CorpusFiles(const std::filesystem::path& path) : path_(path.string()) {
  require(!path.empty(), "no data: name a text with --data FILE, or a folder with train, valid and test");
  if (std::filesystem::is_directory(path)) {
    for (size_t i = 0; i < split_.size(); ++i) {
      files_.push_back(std::make_unique<MappedFile>(file_of_split(path, kSplitNames[i])));
      split_[i] = files_.back()->bytes();
    }
    return;
  }
  files_.push_back(std::make_unique<MappedFile>(path));
  const Bytes all = files_.back()->bytes();
  const size_t held_out = all.size() / 20, train = all.size() - 2 * held_out;
  split_ = {all.first(train), all.subspan(train, held_out), all.last(held_out)};
}

std::string CorpusFiles::sha256() const {
  Sha256 digest;
  for (const Bytes part : split_) digest.update(part);
  return digest.finish();
}

TokenSequence::TokenSequence(Bytes text, const ByteVocabulary& vocabulary, const std::string& source) {
  if (vocabulary.is_identity()) {
    ids_ = {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
    return;
  }
  owned_ = vocabulary.encode(text, source);
  ids_ = owned_;
}

ByteVocabulary make_vocabulary(const std::string& format, const CorpusFiles& files) {
  if (format == "bytes") return ByteVocabulary::bytes();
  require(format == "enwik8", "data.format '", format, "' is not known", suggest(format, kFormats));
  return ByteVocabulary::enwik8(files.parts());
}

}  // namespace smoe
