#include "smoe/data/language_table.h"

#include <glob.h>

#include <algorithm>
#include <map>
#include <string_view>

#include "smoe/base/config_values.h"
#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/quote.h"
#include "smoe/base/suggest.h"

namespace smoe {
namespace {

constexpr std::string_view kEntry = "language.";

/// A language as it is read, line by line: its family by name, which may be listed only after it.
struct Entry {
  Language language;
  std::string family;
};

void check_name(const std::string& name, const std::string& where) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
  };
  require(!name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), allowed), where, ": ",
          quoted_name(name), " cannot name a language or a family: 1 to 64 letters, digits, '-' and '_' can");
}

std::string text_of(const RawSetting& setting) {
  const auto* text = std::get_if<std::string>(&setting.value);
  require(text != nullptr, setting.where, ": ", printable(setting.name), " must be a string, got ",
          printable(value_text(setting.value)));
  return *text;
}

/// The strings of an array; an empty one is one of integers too.
std::vector<std::string> texts_of(const RawSetting& setting, const char* example) {
  const auto* texts = std::get_if<std::vector<std::string>>(&setting.value);
  require(texts != nullptr, setting.where, ": ", printable(setting.name),
          " must be an array of at least one string, such as ", example, ", got ",
          printable(value_text(setting.value)));
  for (const std::string& text : *texts) {
    require(!text.empty() && text.find('\0') == std::string::npos, setting.where, ": ", printable(setting.name),
            " has ", quoted_name(text), ", which names nothing");
  }
  return *texts;
}

std::vector<std::string> read_families(const RawSetting& setting) {
  std::vector<std::string> families = texts_of(setting, R"(["germanic", "romance"])");
  for (size_t i = 0; i < families.size(); ++i) {
    check_name(families[i], setting.where);
    require(std::find(families.begin(), families.begin() + static_cast<std::ptrdiff_t>(i), families[i]) ==
                families.begin() + static_cast<std::ptrdiff_t>(i),
            setting.where, ": the family '", families[i], "' is listed twice");
  }
  return families;
}

/// Reads a key below [language.NAME].
void read_entry(const RawSetting& setting, std::vector<Entry>& entries) {
  const std::string key = setting.name.substr(kEntry.size()), name = key.substr(0, key.find('.'));
  require(name.size() < key.size(), setting.where, ": ", quoted_name(setting.name),
          " must be a table with its files, such as [", kEntry, "en] and files = [\"en.txt\"]");
  check_name(name, setting.where);
  if (entries.empty() || entries.back().language.name != name) {
    const auto same = [&](const Entry& entry) { return entry.language.name == name; };
    require(std::none_of(entries.begin(), entries.end(), same), setting.where, ": the language '", name,
            "' is in two places");
    entries.push_back({.language = {.name = name, .family = 0, .files = {}, .where = setting.where}, .family = ""});
  }
  const std::string field = key.substr(name.size() + 1);
  if (field == "files") {
    entries.back().language.files = texts_of(setting, R"(["en.txt", "en/*.txt"])");
  } else if (field == "family") {
    entries.back().family = text_of(setting);
  } else {
    throw UserError(
        concat(setting.where, ": unknown key ", quoted_name(setting.name), suggest(field, {"files", "family"})));
  }
}

/// The number of the entry's family among those that are listed.
int64_t family_of(const Entry& entry, const std::vector<std::string>& families) {
  const auto& [language, family] = entry;
  require(!families.empty() || family.empty(), language.where, ": the language '", language.name, "' has the family ",
          quoted_name(family), ", but no families are listed: families = [", quoted_name(family),
          ", …] gives each its expert");
  require(!family.empty(), language.where, ": the language '", language.name,
          "' has no family; known: ", join(families));
  const auto found = std::find(families.begin(), families.end(), family);
  require(found != families.end(), language.where, ": the family ", quoted_name(family), " of '", language.name,
          "' is not known", suggest(family, families));
  return found - families.begin();
}

LanguageTable table_of(const std::vector<Entry>& entries, const RawSetting* listed, const std::string& source) {
  require(!entries.empty(), source, ": there is no language: [language.NAME] with files = [\"NAME.txt\"]");
  LanguageTable table;
  if (listed != nullptr) table.families = read_families(*listed);
  std::vector<bool> used(table.families.size());
  for (const Entry& entry : entries) {
    Language language = entry.language;
    require(!language.files.empty(), language.where, ": the language '", language.name, "' has no files: files = [\"",
            language.name, ".txt\"]");
    if (listed != nullptr || !entry.family.empty()) {
      language.family = family_of(entry, table.families);
      used[static_cast<size_t>(language.family)] = true;
    } else {
      language.family = static_cast<int64_t>(table.languages.size());
    }
    table.languages.push_back(std::move(language));
  }
  if (listed == nullptr) {
    for (const Language& language : table.languages) table.families.push_back(language.name);
    return table;
  }
  for (size_t i = 0; i < used.size(); ++i) {
    require(used[i], listed->where, ": no language has the family '", table.families[i],
            "'; each family has an expert, which would learn nothing");
  }
  return table;
}

/// The folder with a backslash before what glob() would take for a pattern.
std::string escaped(const std::filesystem::path& folder) {
  std::string out;
  for (const char c : folder.string()) {
    if (std::string_view("*?[\\").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

/// The files that a name or a pattern means.
std::vector<std::filesystem::path> files_of(const std::string& pattern, const std::filesystem::path& folder,
                                            const std::string& where) {
  std::error_code error;  // what cannot be looked at is not there
  if (pattern.find_first_of("*?[") == std::string::npos) {
    const std::filesystem::path file = (folder / pattern).lexically_normal();
    require(!std::filesystem::is_directory(file, error), where, ": ", quoted_name(pattern), " is a folder; ",
            quoted_name(pattern + "/*"), " would be the files in it");
    require(std::filesystem::exists(file, error), where, ": ", quoted_name(pattern), ": no such file beside the table");
    return {file};
  }
  const bool absolute = std::filesystem::path(pattern).is_absolute();
  glob_t found = {};
  ::glob((absolute ? pattern : escaped(folder) + "/" + pattern).c_str(), 0, nullptr, &found);
  std::vector<std::filesystem::path> files;
  for (size_t i = 0; i < found.gl_pathc; ++i) {
    std::filesystem::path file = std::filesystem::path(found.gl_pathv[i]).lexically_normal();
    if (std::filesystem::is_regular_file(file, error)) files.push_back(std::move(file));
  }
  ::globfree(&found);
  require(!files.empty(), where, ": ", quoted_name(pattern), " fits no file");
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

bool is_language_table(const std::filesystem::path& path) { return path.extension() == ".toml"; }

LanguageTable read_language_table(const std::filesystem::path& path) {
  const std::vector<RawSetting> settings = read_settings(read_file(path, kLargestToml), path.string());
  std::vector<Entry> entries;
  const RawSetting* families = nullptr;
  for (const RawSetting& setting : settings) {
    require(setting.name != "language", setting.where, ": 'language' must be tables with files, such as [", kEntry,
            "en]");
    if (setting.name == "families") {
      families = &setting;
    } else if (setting.name.starts_with(kEntry)) {
      read_entry(setting, entries);
    } else {
      throw UserError(concat(setting.where, ": unknown key ", quoted_name(setting.name), " in a table of languages",
                             suggest(setting.name, {"families", "language"})));
    }
  }
  return table_of(entries, families, path.string());
}

std::vector<std::vector<std::filesystem::path>> language_files(const LanguageTable& table,
                                                               const std::filesystem::path& path) {
  const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
  std::map<std::filesystem::path, std::string> owner;
  std::vector<std::vector<std::filesystem::path>> files;
  for (const Language& language : table.languages) {
    files.emplace_back();
    for (const std::string& pattern : language.files) {
      for (const std::filesystem::path& file : files_of(pattern, folder, language.where)) {
        std::error_code error;
        const auto [other, is_new] = owner.emplace(std::filesystem::canonical(file, error), language.name);
        require(is_new, language.where, ": ", quoted_name(file.filename().string()), " is a text of '", other->second,
                "' already; each file is read once");
        files.back().push_back(file);
      }
    }
  }
  return files;
}

}  // namespace smoe
