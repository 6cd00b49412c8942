#include "smoe/base/config_values.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "smoe/base/config_text.h"
#include "smoe/base/error.h"
#include "smoe/base/quote.h"
#include "smoe/base/suggest.h"

namespace smoe {
namespace {

template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};

/// "string \"a\"", "integer 3": what came, for messages.
std::string describe(const RawValue& value) {
  constexpr const char* kTypes[] = {"integer ", "number ", "", "string ", "array ", "array ", ""};
  const auto* text = std::get_if<std::string>(&value);
  return kTypes[value.index()] + (text != nullptr ? "\"" + printable(*text) + "\"" : printable(value_text(value)));
}

/// The value and its field, where one is to be put into the other.
class Assignment {
 public:
  Assignment(const Field& field, const RawSetting& setting) : field_(field), setting_(setting) {}

  void operator()(int64_t* place) const {
    const int64_t value = get<int64_t>();
    check_range(static_cast<double>(value));
    *place = value;
  }

  void operator()(double* place) const {
    const auto* integer = std::get_if<int64_t>(&setting_.value);
    const double value = integer != nullptr ? static_cast<double>(*integer) : get<double>();
    if (!std::isfinite(value)) refuse("must be a finite number");
    check_range(value);
    *place = value;
  }

  void operator()(bool* place) const { *place = get<bool>(); }

  void operator()(std::string* place) const {
    const std::string& value = get<std::string>();
    const std::vector<std::string>& names = field_.allowed.names;
    if (!names.empty() && std::find(names.begin(), names.end(), value) == names.end()) {
      throw UserError(concat(setting_.where, ": ", field_.name, ": unknown value \"", printable(value), "\"",
                             suggest(value, names)));
    }
    if (!is_utf8(value)) throw UserError(concat(setting_.where, ": ", field_.name, " is not valid UTF-8"));
    *place = value;
  }

  void operator()(LayerSelection* place) const {
    if (const auto* ids = std::get_if<std::vector<int64_t>>(&setting_.value)) {
      if (std::any_of(ids->begin(), ids->end(), [](int64_t id) { return id < 0; })) refuse("must have no negative ids");
      if (std::set<int64_t>(ids->begin(), ids->end()).size() != ids->size()) refuse("must name each layer once");
      *place = {false, *ids};
      return;
    }
    const std::string& word = get<std::string>();
    if (word != "all" && word != "none") refuse_type();
    *place = {word == "all", {}};
  }

  void operator()(std::vector<int64_t>* place) const {
    const std::vector<int64_t>& values = get<std::vector<int64_t>>();
    for (const int64_t value : values) check_range(static_cast<double>(value));
    *place = values;
  }

 private:
  template <class T>
  const T& get() const {
    const T* value = std::get_if<T>(&setting_.value);
    if (value == nullptr) refuse_type();
    return *value;
  }

  void check_range(double value) const {
    const Allowed& allowed = field_.allowed;
    const bool good = (allowed.open_min ? value > allowed.min : value >= allowed.min) && value <= allowed.max;
    if (!good) refuse("must be " + allowed_text(field_));
  }

  [[noreturn]] void refuse_type() const {
    constexpr const char* kWanted[] = {
        "an integer",          "a number", "true or false", "a string", "\"all\", \"none\" or an array of layer ids",
        "an array of integers"};
    refuse(concat("must be ", kWanted[field_.value.index()]));
  }

  [[noreturn]] void refuse(const std::string& what) const {
    throw UserError(concat(setting_.where, ": ", field_.name, " ", what, ", got ", describe(setting_.value)));
  }

  const Field& field_;
  const RawSetting& setting_;
};

std::string last_part(const std::string& name) { return name.substr(name.rfind('.') + 1); }

std::string table_of(const std::string& name) {
  const size_t dot = name.rfind('.');
  return dot == std::string::npos ? "" : name.substr(0, dot);
}

}  // namespace

std::string value_text(const RawValue& value) {
  return std::visit(Overloaded{[](int64_t v) { return std::to_string(v); }, [](double v) { return double_text(v); },
                               [](bool v) { return std::string(v ? "true" : "false"); },
                               [](const std::string& v) { return string_text(v); },
                               [](const std::vector<int64_t>& v) { return list_text(v); },
                               [](const std::vector<std::string>& v) { return list_text(v); },
                               [](const NoValue& v) { return v.what; }},
                    value);
}

bool is_table(const Fields& fields, std::string_view name) {
  const std::string prefix = std::string(name) + ".";
  return std::any_of(fields.all().begin(), fields.all().end(),
                     [&](const Field& f) { return f.name.starts_with(prefix); });
}

std::string suggest_setting(const Fields& fields, const std::string& name) {
  const auto did_you_mean = [](const std::string& near) { return "; did you mean '" + near + "'?"; };
  std::vector<std::string> tables, in_use;  // all, and those that are not of kinds which are not chosen
  const auto add = [](std::vector<std::string>& to, const std::string& table) {
    if (!table.empty() && std::find(to.begin(), to.end(), table) == to.end()) to.push_back(table);
  };
  for (const Field& field : fields.all()) {
    add(tables, table_of(field.name));
    if (field.applies()) add(in_use, table_of(field.name));
  }
  const std::string given = table_of(name);
  const bool known = given.empty() || std::find(tables.begin(), tables.end(), given) != tables.end();
  const std::string table = known ? given : nearest_name(given, tables);

  // The slip is in the key, or in the table's name, or in both.
  std::vector<std::string> siblings, keys;
  for (const Field& field : fields.all()) {
    if ((known || !table.empty()) && table_of(field.name) == table) siblings.push_back(last_part(field.name));
    keys.push_back(last_part(field.name));
  }
  if (const std::string near = nearest_name(last_part(name), siblings); !near.empty()) {
    return did_you_mean(table.empty() ? near : table + "." + near);
  }
  // A dot is missing or too many.
  const bool in_table = known && !given.empty();
  const std::string near_name = in_table ? "" : nearest_name(name, fields.names());
  if (!near_name.empty()) return did_you_mean(near_name);
  // It stands in the wrong table.
  if (const std::string near = nearest_name(last_part(name), keys); !near.empty()) {
    return did_you_mean(fields.all()[std::find(keys.begin(), keys.end(), near) - keys.begin()].name);
  }
  if (const std::string near = nearest_name(name, tables); !near.empty()) return did_you_mean(near);
  if (in_table) return "; known in " + table + ": " + join(siblings);
  return "; known tables: " + join(in_use);
}

void assign(const Fields& fields, const RawSetting& setting) {
  const std::vector<Field>& all = fields.all();
  const auto found = std::find_if(all.begin(), all.end(), [&](const Field& f) { return f.name == setting.name; });
  if (found == all.end()) {
    const std::string name = quoted_name(setting.name);
    require(!is_table(fields, setting.name), setting.where, ": ", name, " is a table of settings, got ",
            describe(setting.value));
    throw UserError(concat(setting.where, ": unknown key ", name, suggest_setting(fields, setting.name)));
  }
  std::visit(Assignment(*found, setting), found->value);
}

void check_applies(const Fields& fields, const RawSetting& setting) {
  const Field& field = fields.find(setting.name);
  if (field.applies()) return;
  const auto choice = std::find_if(fields.all().begin(), fields.all().end(), [&](const Field& other) {
    const auto* const* place = std::get_if<std::string*>(&other.value);
    return place != nullptr && *place == field.chosen;
  });
  const std::string name = choice == fields.all().end() ? "the kind" : choice->name;
  throw UserError(concat(setting.where, ": ", setting.name, " is a setting of ", name, " = ", string_text(field.kind),
                         ", but ", name, " is ", string_text(*field.chosen)));
}

}  // namespace smoe
