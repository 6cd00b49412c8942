// Settings as text: values, documents and tables of help.
#include "smoe/base/config_text.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <map>

#include <nlohmann/json.hpp>

#include "smoe/base/config.h"
#include "smoe/base/suggest.h"

namespace smoe {
namespace {

std::string shortest_text(double value) {
  std::array<char, 32> buffer = {};
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return {buffer.data(), result.ptr};
}

struct ValueText {
  std::string operator()(const int64_t* v) const { return std::to_string(*v); }
  std::string operator()(const double* v) const { return double_text(*v); }
  std::string operator()(const bool* v) const { return *v ? "true" : "false"; }
  std::string operator()(const std::string* v) const { return string_text(*v); }
  std::string operator()(const LayerSelection* v) const {
    if (v->all) return "\"all\"";
    return v->ids.empty() ? "\"none\"" : list_text(v->ids);
  }
  std::string operator()(const std::vector<int64_t>* v) const { return list_text(*v); }
};

/// Text as it can stand in a cell of a Markdown table.
std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

}  // namespace

std::string double_text(double value) {
  if (std::isnan(value)) return "nan";
  std::string text = shortest_text(value);
  // "100" would be an integer to TOML; "1e+20" and "inf" are not.
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

std::string string_text(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      std::array<char, 8> escape = {};
      std::snprintf(escape.data(), escape.size(), "\\u%04X", static_cast<unsigned>(byte));
      out += escape.data();
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string list_text(const std::vector<int64_t>& values) {
  std::vector<std::string> texts;
  for (const int64_t value : values) texts.push_back(std::to_string(value));
  return "[" + join(texts) + "]";
}

std::string list_text(const std::vector<std::string>& values) {
  std::vector<std::string> texts;
  for (const std::string& value : values) texts.push_back(string_text(value));
  return "[" + join(texts) + "]";
}

bool is_utf8(std::string_view text) {
  try {
    nlohmann::json(std::string(text)).dump();
    return true;
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

std::string value_text(const Field& field) { return std::visit(ValueText(), field.value); }

std::string type_text(const Field& field) {
  constexpr const char* kTypes[] = {"integer", "number", "boolean", "string", "layers", "integers"};
  return kTypes[field.value.index()];
}

std::string allowed_text(const Field& field) {
  const Allowed& allowed = field.allowed;
  if (!allowed.names.empty()) return join(allowed.names);
  const bool has_min = std::isfinite(allowed.min), has_max = std::isfinite(allowed.max);
  const std::string min = shortest_text(allowed.min), max = shortest_text(allowed.max);
  if (has_min && has_max && !allowed.open_min) return "between " + min + " and " + max;
  std::string text;
  if (has_min) text = (allowed.open_min ? "greater than " : "at least ") + min;
  if (has_max) text += (has_min ? " and at most " : "at most ") + max;
  return text;
}

std::string to_toml(const Fields& fields) {
  // A table may be opened only once, so that its keys are gathered even where they are not described together.
  std::vector<std::string> tables = {""};
  std::map<std::string, std::string> lines;
  for (const Field& field : fields.all()) {
    if (!field.applies()) continue;
    const size_t dot = field.name.rfind('.');
    const std::string table = dot == std::string::npos ? "" : field.name.substr(0, dot);
    if (!table.empty() && !lines.contains(table)) tables.push_back(table);
    lines[table] += field.name.substr(dot + 1) + " = " + value_text(field) + "\n";
  }
  std::string text;
  for (const std::string& table : tables) {
    if (!text.empty()) text += "\n";
    if (!table.empty()) text += "[" + table + "]\n";
    text += lines[table];
  }
  return text;
}

std::string to_markdown(const Fields& fields) {
  std::string text = "| name | type | default | allowed | what it is |\n| --- | --- | --- | --- | --- |\n";
  for (const Field& field : fields.all()) {
    text += "| `" + field.name + "` | " + type_text(field) + " | `" + cell(value_text(field)) + "` | " +
            cell(allowed_text(field)) + " | " + cell(field.help) + " |\n";
  }
  return text;
}

}  // namespace smoe
