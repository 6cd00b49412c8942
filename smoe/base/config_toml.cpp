// Settings from TOML.
#include <algorithm>
#include <set>
#include <stdexcept>
#include <utility>

// A few malformed texts ("[[=") break assertions inside the parser (tomlplusplus pull request 301). They must end as an
// error in every build, so that the assertions throw, and NDEBUG, which toml++ reads, must not take them away.
namespace {
constexpr void toml_assert(bool holds) {
  if (!holds) throw std::logic_error("an assertion of the TOML parser");
}
}  // namespace
#undef NDEBUG
#define TOML_ASSERT(condition) toml_assert(static_cast<bool>(condition))
#include <toml++/toml.h>

#include "smoe/base/config.h"
#include "smoe/base/config_values.h"
#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/quote.h"
#include "smoe/base/toml_guard.h"

namespace smoe {
namespace {

struct Line {
  RawSetting setting;
  uint32_t number;
};

std::string type_name(const toml::node& node) {
  if (node.is_table()) return "a table";
  if (node.is_array()) return "an array";
  if (node.is_string()) return "a string";
  if (node.is_integer()) return "an integer";
  if (node.is_floating_point()) return "a fraction";
  if (node.is_boolean()) return "a boolean";
  return "a date or time";
}

RawValue to_raw(const toml::node& node) {
  if (const auto* integer = node.as_integer()) return integer->get();
  if (const auto* number = node.as_floating_point()) return number->get();
  if (const auto* flag = node.as_boolean()) return flag->get();
  if (const auto* text = node.as_string()) return text->get();
  const toml::array* array = node.as_array();
  if (array == nullptr) return NoValue{type_name(node)};
  std::vector<int64_t> numbers;
  std::vector<std::string> texts;
  for (const toml::node& item : *array) {
    if (item.is_integer() && texts.empty()) {
      numbers.push_back(item.as_integer()->get());
    } else if (item.is_string() && numbers.empty()) {
      texts.push_back(item.as_string()->get());
    } else {
      return NoValue{"an array with " + type_name(item)};
    }
  }
  if (texts.empty()) return numbers;
  return texts;
}

/// Appends the settings of `table`, by their full names.
void flatten(const Fields& fields, const toml::table& table, const std::string& prefix, const std::string& source,
             int depth, std::vector<Line>& lines) {
  for (const auto& [key, node] : table) {
    const std::string name = prefix + std::string(key.str());
    const toml::table* inner = node.as_table();
    if (inner != nullptr && !inner->empty() && depth < kDeepestTable) {
      flatten(fields, *inner, name + ".", source, depth + 1, lines);
    } else if (inner == nullptr || !is_table(fields, name)) {
      const uint32_t number = key.source().begin.line;
      lines.push_back({{name, to_raw(node), concat(source, ":", number)}, number});
    }
  }
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

/// Throws TomlSyntaxError.
toml::table parse(std::string_view text) {
  const std::string guarded = guarded_toml(text);
  try {
    return toml::parse(guarded);
  } catch (const toml::parse_error& error) {
    throw TomlSyntaxError{error.source().begin.line, printable(error.description(), 300)};
  } catch (const std::logic_error&) {
    throw TomlSyntaxError{0, "is not valid TOML; is each '[[' followed by a name?"};
  }
}

/// The value of a --set: TOML, or the text itself where it is not meant as such.
RawValue command_line_value(std::string_view text, bool wants_string, const std::string& where) {
  const bool quoted = !text.empty() && std::string_view("\"'[{").find(text.front()) != std::string_view::npos;
  if (wants_string && !quoted) return std::string(text);
  try {
    const toml::table table = parse("value = " + std::string(text));
    if (table.size() == 1) return to_raw(*table.get("value"));
  } catch (const TomlSyntaxError& error) {
    if (quoted) throw UserError(concat(where, ": ", error.reason));
  }
  return std::string(text);
}

/// The settings of a document, in the order of its lines.
std::vector<Line> read_lines(const Fields& fields, std::string_view text, const std::string& source) {
  std::vector<Line> lines;
  try {
    flatten(fields, parse(text), "", source, 0, lines);
  } catch (const TomlSyntaxError& error) {
    throw UserError(concat(source, error.line > 0 ? concat(":", error.line) : "", ": ", error.reason));
  }
  // The parser sorts by name; of several mistakes the first in the file is the one to report.
  std::stable_sort(lines.begin(), lines.end(), [](const Line& a, const Line& b) { return a.number < b.number; });
  // The parser sees no difference between [model] layers and "model.layers" as one key.
  std::set<std::string_view> names;
  for (const Line& line : lines) {
    require(names.insert(line.setting.name).second, line.setting.where, ": ", quoted_name(line.setting.name),
            " comes twice");
  }
  return lines;
}

}  // namespace

void read_toml(const Fields& fields, std::string_view text, const std::string& source) {
  const std::vector<Line> lines = read_lines(fields, text, source);
  for (const Line& line : lines) assign(fields, line.setting);
  for (const Line& line : lines) check_applies(fields, line.setting);
}

std::vector<RawSetting> read_settings(std::string_view text, const std::string& source) {
  std::vector<RawSetting> settings;
  for (Line& line : read_lines({}, text, source)) settings.push_back(std::move(line.setting));
  return settings;
}

void read_toml_file(const Fields& fields, const std::string& path) {
  read_toml(fields, read_file(path, kLargestToml), path);
}

void set_field(const Fields& fields, std::string_view assignment) {
  const size_t equals = assignment.find('=');
  require(equals != std::string_view::npos && equals > 0, "--set ", assignment,
          ": must be key=value, such as train.steps=100");
  const std::string name(trim(assignment.substr(0, equals)));
  const std::string where = concat("--set ", assignment);
  const std::vector<Field>& all = fields.all();
  const bool wants_string = std::any_of(all.begin(), all.end(), [&](const Field& f) {
    return f.name == name && std::holds_alternative<std::string*>(f.value);
  });
  const RawSetting setting{name, command_line_value(trim(assignment.substr(equals + 1)), wants_string, where), where};
  assign(fields, setting);
  check_applies(fields, setting);
}

}  // namespace smoe
