// A table of languages: whose texts a model is trained on, and which languages share an expert.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace smoe {

/// One language of a table.
struct Language {
  std::string name;                ///< letters, digits, '-' and '_'
  int64_t family = 0;              ///< its number among LanguageTable::families
  std::vector<std::string> files;  ///< names or patterns of files ("en/*.txt"), beside the table
  std::string where;               ///< "languages.toml:4", for messages
};

/// All languages of a table, at least one.
struct LanguageTable {
  std::vector<std::string> families;  ///< the number of a family is that of its expert
  std::vector<Language> languages;    ///< in the order of the file
};

/// Whether `path` is taken for a table of languages: a TOML file, by its name.
bool is_language_table(const std::filesystem::path& path);

/// Reads the TOML file at `path`:
///
///     families = ["germanic", "romance"]   # without this line each language is a family of its own
///     [language.en]                        # in the order of the file
///     files = ["en.txt", "en/*.txt"]       # beside the table; * ? [ab] as a shell takes them
///     family = "germanic"
///
/// Throws UserError naming file and line for what is not TOML, unknown keys, wrong types, no languages, a language without
/// files, and families that are not listed, listed twice or nobody's. No text is looked at.
LanguageTable read_language_table(const std::filesystem::path& path);

/// The texts of each of the table's languages, in their order, those of a pattern by name; `path` is the table's. Throws
/// UserError naming the line for a file that is missing or a folder, a pattern that fits none, and a file named twice.
std::vector<std::vector<std::filesystem::path>> language_files(const LanguageTable& table,
                                                               const std::filesystem::path& path);

}  // namespace smoe
