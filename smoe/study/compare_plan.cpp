#include "smoe/study/compare_plan.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/quote.h"
#include "smoe/base/suggest.h"

namespace smoe {
namespace {

using Options = std::vector<std::pair<std::string, std::string>>;

const std::string& text_of(const RawSetting& setting) {
  const std::string* text = std::get_if<std::string>(&setting.value);
  require(text != nullptr, setting.where, ": ", printable(setting.name), " must be a string, got ",
          printable(value_text(setting.value)));
  return *text;
}

int64_t integer_of(const RawSetting& setting, int64_t least) {
  constexpr int64_t kMost = 1'000'000;
  const int64_t* value = std::get_if<int64_t>(&setting.value);
  require(value != nullptr && *value >= least && *value <= kMost, setting.where, ": ", setting.name,
          " must be an integer from ", least, " to ", kMost, ", got ", printable(value_text(setting.value)));
  return *value;
}

/// What follows `prefix` in `name`; empty where it does not begin with it.
std::string_view after(std::string_view name, std::string_view prefix) {
  return name.starts_with(prefix) ? name.substr(prefix.size()) : std::string_view();
}

void set_option(Options& options, const std::string& name, const std::string& value) {
  std::erase_if(options, [&](const auto& option) { return option.first == name; });
  if (!value.empty()) options.emplace_back(name, value);
}

void check_name(const std::string& name, const std::string& where) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  };
  require(std::all_of(name.begin(), name.end(), allowed) && !name.empty() && name.size() <= 64 && name[0] != '.', where,
          ": ", quoted_name(name),
          " cannot name an entry: 1 to 64 letters, digits, '-', '_' and '.' can, not beginning ", "with '.'");
}

/// The defaults that stand outside of entries.
struct Defaults {
  int64_t seeds = 3;
  Options evaluation;
};

void read_default(const RawSetting& setting, const std::filesystem::path& folder, ComparePlan& plan,
                  Defaults& defaults) {
  if (const std::string_view option = after(setting.name, "eval."); !option.empty()) {
    set_option(defaults.evaluation, std::string(option), text_of(setting));
  } else if (setting.name == "title") {
    plan.title = text_of(setting);
  } else if (setting.name == "base") {
    plan.base = (folder / text_of(setting)).lexically_normal();
  } else if (setting.name == "seeds") {
    defaults.seeds = integer_of(setting, 1);
  } else if (setting.name == "first_seed") {
    plan.first_seed = integer_of(setting, 0);
  } else {
    throw UserError(concat(setting.where, ": unknown key ", quoted_name(setting.name),
                           suggest(setting.name, {"title", "base", "seeds", "first_seed", "eval", "entry"})));
  }
}

/// The entry that `setting`, a key below "entry.", belongs to; it is made where it is new.
CompareEntry& entry_of(const RawSetting& setting, std::string_view key, ComparePlan& plan, const Defaults& defaults) {
  const std::string name(key.substr(0, key.find('.')));
  require(name.size() < key.size(), setting.where, ": ", quoted_name(setting.name),
          " must be a table of at least one line, such as a summary: [entry.NAME]");
  const auto found = std::find_if(plan.entries.begin(), plan.entries.end(),
                                  [&](const CompareEntry& entry) { return entry.name == name; });
  if (found != plan.entries.end()) return *found;
  check_name(name, setting.where);
  plan.entries.push_back(
      {.name = name, .summary = "", .settings = {}, .seeds = defaults.seeds, .evaluation = defaults.evaluation});
  return plan.entries.back();
}

void read_entry(const RawSetting& setting, std::string_view key, ComparePlan& plan, const Defaults& defaults) {
  CompareEntry& entry = entry_of(setting, key, plan, defaults);
  const std::string name(key.substr(entry.name.size() + 1));
  if (const std::string_view option = after(name, "eval."); !option.empty()) {
    set_option(entry.evaluation, std::string(option), text_of(setting));
  } else if (name == "summary") {
    entry.summary = text_of(setting);
  } else if (name == "seeds") {
    entry.seeds = integer_of(setting, 1);
  } else if (name == "needs") {
    require(text_of(setting) == "languages", setting.where, ": needs can be \"languages\", got ",
            printable(value_text(setting.value)));
    entry.needs_languages = true;
  } else {
    require(name != "train.seed", setting.where, ": train.seed cannot be set: the runs of an entry have seeds from ",
            "first_seed on");
    entry.settings.push_back({name, setting.value, setting.where});
  }
}

}  // namespace

ComparePlan read_compare_plan(const std::filesystem::path& path) {
  const std::vector<RawSetting> settings = read_settings(read_file(path, kLargestToml), path.string());
  ComparePlan plan;
  plan.title = path.stem().string();
  Defaults defaults;
  for (const RawSetting& setting : settings) {
    if (after(setting.name, "entry.").empty()) read_default(setting, path.parent_path(), plan, defaults);
  }
  for (const RawSetting& setting : settings) {
    const std::string_view key = after(setting.name, "entry.");
    if (!key.empty()) read_entry(setting, key, plan, defaults);
  }
  require(!plan.base.empty(), path.string(), ": base is missing: the recipe that all entries share");
  require(!plan.entries.empty(), path.string(),
          ": there is no entry: [entry.NAME] with what its recipe differs in, or ",
          "with summary = \"…\" where it is the base itself");
  return plan;
}

int64_t parse_count(const std::string& text, const std::string& what) {
  constexpr double kMost = 1e18;
  double value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(stop, static_cast<size_t>(text.data() + text.size() - stop));
  const size_t power = std::string_view("KMGT").find(unit.empty() ? ' ' : unit[0]);
  if (!unit.empty() && power != std::string_view::npos) value *= std::pow(1000.0, static_cast<double>(power + 1));
  const bool known = unit.empty() || (unit.size() == 1 && power != std::string_view::npos);
  require(error == std::errc() && known && value >= 1 && value <= kMost && value == std::floor(value), what,
          " takes a whole number from 1 to 10^18, such as 250000, 600K or 1.5M, got '", text, "'");
  return static_cast<int64_t>(value);
}

}  // namespace smoe
