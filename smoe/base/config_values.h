// What the readers of settings share: a value as a file gives it, before it is checked against its field.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "smoe/base/config.h"

namespace smoe {

/// A value that no field can take, by its description: "a table", "an array with a string".
struct NoValue {
  std::string what;
};

using RawValue =
    std::variant<int64_t, double, bool, std::string, std::vector<int64_t>, std::vector<std::string>, NoValue>;

/// One setting of a file: `where` is "recipes/x.toml:12", for messages.
struct RawSetting {
  std::string name;
  RawValue value;
  std::string where;
};

/// The settings of a TOML document, in the order of its lines, for readers that know no fields to put them into. Throws
/// UserError for what is not TOML; `source` names the document.
std::vector<RawSetting> read_settings(std::string_view text, const std::string& source);

/// A value as TOML text; what came instead of one in words.
std::string value_text(const RawValue& value);

/// Sets the field that `setting` names. Throws UserError for an unknown name, a wrong type or a value not allowed.
void assign(const Fields& fields, const RawSetting& setting);

/// Throws UserError where `setting` belongs to a kind that is not the chosen one; to be asked once all settings that come
/// together are assigned, since the choice may stand after it.
void check_applies(const Fields& fields, const RawSetting& setting);

/// Whether `name` is a table of settings: "moe" where there is a field "moe.experts".
bool is_table(const Fields& fields, std::string_view name);

/// What to append to "unknown key 'name'": the nearest field, or where none is near, what there is at that place.
std::string suggest_setting(const Fields& fields, const std::string& name);

/// Tables deeper than this are not looked into: no configuration is, and a hostile file would exhaust the stack.
inline constexpr int kDeepestTable = 8;

}  // namespace smoe
