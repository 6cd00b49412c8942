#include "smoe/base/quote.h"

#include <array>
#include <cstdio>

#include <nlohmann/json.hpp>

namespace smoe {
namespace {

/// The longest beginning of `text` that has at most `longest` bytes and does not end inside a character.
std::string_view beginning_of(std::string_view text, size_t longest) {
  if (text.size() <= longest) return text;
  size_t end = longest;
  while (end > 0 && continues_character(text[end])) --end;
  return text.substr(0, end);
}

std::string escape(unsigned character) {
  if (character == '\n') return "\\n";
  if (character == '\t') return "\\t";
  std::array<char, 8> text = {};
  std::snprintf(text.data(), text.size(), "\\u%04X", character);
  return text.data();
}

}  // namespace

std::string valid_utf8(std::string_view text) {
  // nlohmann's writer is the one that knows how.
  using Json = nlohmann::json;
  const std::string written = Json(std::string(text)).dump(-1, ' ', false, Json::error_handler_t::replace);
  return Json::parse(written).get<std::string>();
}

std::string printable(std::string_view text, size_t longest) {
  const std::string valid = valid_utf8(beginning_of(text, longest));  // what is printed is no shorter
  std::string out;
  size_t next = 0;
  while (next < valid.size()) {
    const size_t begin = next++;
    while (next < valid.size() && continues_character(valid[next])) ++next;
    const std::string character = valid.substr(begin, next - begin);
    const auto first = static_cast<unsigned char>(character[0]);
    const auto last = static_cast<unsigned char>(character.back());
    // The second half of the controls, U+0080 to U+009F, has two bytes.
    const bool is_control = first < 0x20 || first == 0x7F || (first == 0xC2 && last < 0xA0);
    const std::string printed = is_control ? escape(last) : character;
    if (out.size() + printed.size() > longest) return out + "…";
    out += printed;
  }
  return text.size() > longest ? out + "…" : out;
}

std::string quoted_name(std::string_view name) { return "'" + printable(name) + "'"; }

}  // namespace smoe
