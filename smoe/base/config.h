// Settings: each field of a configuration is listed once, in its struct's describe(); reading TOML, --set, help,
// validation, the resolved recipe, config.json and docs/config.md all come from that list.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace smoe {

/// Which layers of a model: "all", "none", or a list of ids such as [0, 1, 2, 3].
struct LayerSelection {
  bool all = false;
  std::vector<int64_t> ids;

  /// Whether layer `layer` is selected.
  bool contains(int64_t layer) const;
};

/// Where a field's value lives; the alternatives are all the types a setting can have.
using FieldValue = std::variant<int64_t*, double*, bool*, std::string*, LayerSelection*, std::vector<int64_t>*>;

/// What a field accepts: an interval for numbers (each of a list), a set of names for strings; empty accepts everything
/// of its type. Numbers are always finite, strings UTF-8.
struct Allowed {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool open_min = false;  ///< whether min itself is excluded
  std::vector<std::string> names;
};

Allowed at_least(double min);
Allowed above(double min);
Allowed between(double min, double max);
Allowed one_of(std::vector<std::string> names);

/// One setting: its dotted name ("moe.experts"), its place, a line of help and what is allowed.
struct Field {
  std::string name;
  FieldValue value;
  std::string help;
  Allowed allowed;
  std::string kind = {};                ///< the kind it belongs to; empty where it is everybody's
  const std::string* chosen = nullptr;  ///< the setting that names the kind in use
  bool may_be_missing = false;          ///< whether JSON without it is read, as of before there was such a setting

  /// Whether the setting is in use: always, or while its kind is chosen.
  bool applies() const { return chosen == nullptr || *chosen == kind; }
};

/// The flat list of the fields of a configuration, in the order they are described.
class Fields {
 public:
  /// Adds a field under the tables that are open. Throws std::logic_error where there is one of that name.
  void add(std::string_view key, FieldValue value, std::string_view help, Allowed allowed = {});

  /// add() of a field that is newer than files which are still read: from_json leaves it as it is where it is missing.
  void add_newer(std::string_view key, FieldValue value, std::string_view help, Allowed allowed = {}) {
    add(key, value, help, std::move(allowed));
    fields_.back().may_be_missing = true;
  }

  /// Adds all fields that `describe` adds, under the table `key`.
  template <class Config>
  void table(std::string_view key, Config& config) {
    const std::string outer = prefix_;
    prefix_ += std::string(key) + ".";
    config.describe(*this);
    prefix_ = outer;
  }

  /// Adds all fields that `describe` adds, under the table `kind`, as settings of that kind alone: they are read, written
  /// and required only where `chosen`, the place of a field that is described already, says `kind`.
  template <class Config>
  void kind_table(const std::string& kind, const std::string& chosen, Config& config) {
    const size_t first = fields_.size();
    table(kind, config);
    for (size_t i = first; i < fields_.size(); ++i) {
      fields_[i].kind = kind;
      fields_[i].chosen = &chosen;
    }
  }

  const std::vector<Field>& all() const { return fields_; }
  std::vector<std::string> names() const;

  /// The field of that name; throws UserError with the nearest name where there is none.
  const Field& find(std::string_view name) const;

 private:
  std::string prefix_;
  std::vector<Field> fields_;
};

/// Reads a TOML document into the fields; `source` names it in messages ("recipes/x.toml"). Unknown keys, wrong types
/// and values that are not allowed throw UserError with the line, and so do strings in three quotes, which are not read,
/// and settings of a kind that is not the chosen one. Fields that are not mentioned keep their value; after an error,
/// those of the lines before it are set.
void read_toml(const Fields& fields, std::string_view text, const std::string& source);

/// No recipe is larger, in bytes; the parser's time grows with the square of what a hostile file has of tables.
inline constexpr uint64_t kLargestToml = 1 << 20;

/// Reads the TOML file at `path`; one of more than kLargestToml bytes throws UserError.
void read_toml_file(const Fields& fields, const std::string& path);

/// Applies one "key=value" of --set; the value is TOML, and a bare word, or anything without quotes where the field is
/// a string, is taken as a string. A setting of a kind that is not the chosen one throws UserError.
void set_field(const Fields& fields, std::string_view assignment);

/// The fields that apply as a TOML document that read_toml reads back to the same values, bit for bit.
std::string to_toml(const Fields& fields);

/// The fields that apply as nested JSON objects.
nlohmann::ordered_json to_json(const Fields& fields);

/// Reads what to_json wrote; unknown keys, and missing ones but those of newer fields, throw UserError naming `source`.
void from_json(const Fields& fields, const nlohmann::ordered_json& json, const std::string& source);

/// A Markdown table of all fields, those that do not apply too: name, type, default (the value now), allowed values, help.
std::string to_markdown(const Fields& fields);

/// The field's value as TOML text, its type's name, and what is allowed, for help texts.
std::string value_text(const Field& field);
std::string type_text(const Field& field);
std::string allowed_text(const Field& field);

}  // namespace smoe
