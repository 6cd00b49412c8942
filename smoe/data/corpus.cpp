#include "smoe/data/corpus.h"

#include <algorithm>
#include <array>
#include <utility>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/sha256.h"
#include "smoe/base/suggest.h"
#include "smoe/data/language_table.h"

namespace smoe {
namespace {

constexpr std::array<const char*, 3> kSplitNames = {"train", "valid", "test"};
const std::vector<std::string> kFormats = {"bytes", "enwik8"};

/// The one regular file of `folder` whose name without extension is `stem`.
std::filesystem::path file_of_split(const std::filesystem::path& folder, const std::string& stem) {
  std::vector<std::filesystem::path> found;
  for (const auto& entry : list_folder(folder)) {
    if (entry.is_regular_file() && entry.path().stem() == stem) found.push_back(entry.path());
  }
  require(!found.empty(), folder.string(), ": the folder has no file '", stem,
          "'; a data folder holds train, valid and test (any extension)");
  require(found.size() == 1, folder.string(), ": more than one file is called '", stem, "', with different extensions");
  return found[0];
}

/// Train, valid and test of a text that is one piece.
std::array<Bytes, 3> split_by_position(Bytes all) {
  const size_t held_out = all.size() / 20, train = all.size() - 2 * held_out;
  return {all.first(train), all.subspan(train, held_out), all.last(held_out)};
}

/// The runs of a text's tokens, of those of its bytes.
std::vector<LabelRun> labels_of_tokens(Bytes text, const ByteVocabulary& vocabulary, std::vector<LabelRun> labels) {
  size_t begin = 0;
  for (LabelRun& run : labels) {
    require(std::cmp_less_equal(run.size, text.size() - begin), "labels are of more bytes than the text has");
    const Bytes bytes = text.subspan(begin, static_cast<size_t>(run.size));
    begin += bytes.size();
    run.size -= std::count_if(bytes.begin(), bytes.end(),
                              [&](std::byte byte) { return vocabulary.drops(static_cast<uint8_t>(byte)); });
  }
  require(labels.empty() || begin == text.size(), "labels are of ", begin, " bytes, the text has ", text.size());
  return labels;
}

}  // namespace

void DataConfig::describe(Fields& fields) {
  fields.add("path", &path,
             "text file, folder with train, valid and test, or table of languages (.toml); --data sets it");
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
  if (is_folder(path)) {
    for (size_t i = 0; i < split_.size(); ++i) {
      files_.push_back(std::make_unique<MappedFile>(file_of_split(path, kSplitNames[i])));
      split_[i] = files_.back()->bytes();
    }
    return;
  }
  if (is_language_table(path)) {
    read_table(path);
    return;
  }
  files_.push_back(std::make_unique<MappedFile>(path));
  split_ = split_by_position(files_.back()->bytes());
}

void CorpusFiles::read_table(const std::filesystem::path& path) {
  const LanguageTable table = read_language_table(path);
  const auto files = language_files(table, path);
  families_ = table.families;
  for (size_t i = 0; i < files.size(); ++i) {
    const size_t before = joined_[0].size();
    for (const std::filesystem::path& file : files[i]) {
      const MappedFile map(file);
      const std::array<Bytes, 3> parts = split_by_position(map.bytes());
      for (size_t split = 0; split < parts.size(); ++split) {
        joined_[split].insert(joined_[split].end(), parts[split].begin(), parts[split].end());
      }
    }
    const size_t size = joined_[0].size() - before;
    require(size > 0, table.languages[i].where, ": the texts of '", table.languages[i].name, "' are empty");
    runs_.push_back({static_cast<int64_t>(size), table.languages[i].family});
  }
  for (size_t split = 0; split < joined_.size(); ++split) split_[split] = joined_[split];
}

std::string CorpusFiles::sha256() const {
  Sha256 digest;
  for (const Bytes part : split_) digest.update(part);
  for (const LabelRun& run : runs_) digest.update(as_bytes(concat(run.label, ' ', run.size, '\n')));
  return digest.finish();
}

TokenSequence::TokenSequence(Bytes text, const ByteVocabulary& vocabulary, const std::string& source,
                             const std::vector<LabelRun>& labels)
    : labels_(labels_of_tokens(text, vocabulary, labels)) {
  if (vocabulary.is_identity()) {
    ids_ = {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
    return;
  }
  owned_ = vocabulary.encode(text, source);
  ids_ = owned_;
}

void TokenSequence::copy_labels(int64_t first, int64_t count, int64_t* to) const {
  int64_t begin = 0;
  for (const LabelRun& run : labels_) {
    const int64_t from = std::max(first, begin), end = std::min(first + count, begin + run.size);
    if (from < end) std::fill_n(to + (from - first), end - from, run.label);
    begin += run.size;
  }
}

ByteVocabulary make_vocabulary(const std::string& format, const CorpusFiles& files) {
  if (format == "bytes") return ByteVocabulary::bytes();
  require(format == "enwik8", "data.format '", format, "' is not known", suggest(format, kFormats));
  return ByteVocabulary::enwik8(files.parts());
}

}  // namespace smoe
