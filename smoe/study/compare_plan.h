// What `smoe compare` compares: a base recipe, and kinds of runs that differ from it in a few settings.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "smoe/base/config_values.h"

namespace smoe {

/// One kind of run.
struct CompareEntry {
  std::string name;                  ///< letters, digits, '-', '_' and '.'; names its runs
  std::string summary;               ///< a line for tables and the page
  std::vector<RawSetting> settings;  ///< where its recipe differs from the base
  int64_t seeds = 0;                 ///< how many runs of it there are
  bool needs_languages = false;      ///< left out where the text is no table of languages
  /// What it is measured at: options of `smoe eval` without their dashes, and their values ("k", "1,2,4").
  std::vector<std::pair<std::string, std::string>> evaluation;
};

/// A whole comparison.
struct ComparePlan {
  std::string title;
  std::filesystem::path base;  ///< the recipe that all share
  int64_t first_seed = 1;      ///< the runs of an entry have the seeds first_seed, first_seed + 1, …
  std::vector<CompareEntry> entries;
};

/// Reads the TOML file at `path`:
///
///     title = "Routers"
///     base = "../demo/smoe_dropout.toml"   # beside this file
///     seeds = 3                            # default of every entry; first_seed = 1
///     [eval]                               # options of smoe eval, default of every entry
///     k = "1,2,4,8,16"
///     [entry.dense]                        # in the order of the file
///     summary = "one feed-forward block"
///     seeds = 1
///     needs = "languages"                  # left out of a comparison whose text is no table of languages
///     eval.k = ""                          # an empty value takes a default option away
///     model.moe_layers = "none"            # everything else is a setting of the recipe
///
/// Throws UserError naming the file and line for what is not TOML, unknown keys outside entries, values of a wrong type
/// or range, and where there is no entry. The entries' settings are not looked at: a recipe knows what it takes.
ComparePlan read_compare_plan(const std::filesystem::path& path);

/// "600K" → 600,000: a whole number of at least 1, with K, M, G or T for powers of a thousand; "1.5M" and "2e14" are
/// numbers too. Throws UserError naming `what` for anything else, and for more than 10^18.
int64_t parse_count(const std::string& text, const std::string& what);

}  // namespace smoe
