#include "smoe/base/quote.h"

#include <array>
#include <cstdio>

#include <nlohmann/json.hpp>

namespace smoe {
namespace {

/// The longest beginning of `text` that has at most `longest` bytes and does not end inside a character.
std::string_view cut(std::string_view text, size_t longest) {
  if (text.size() <= longest) return text;
  size_t end = longest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
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
  const std::string_view kept = cut(text, longest);
  const std::string valid = valid_utf8(kept);
  std::string out;
  for (size_t i = 0; i < valid.size(); ++i) {
    const auto byte = static_cast<unsigned char>(valid[i]);
    const auto next = static_cast<unsigned char>(i + 1 < valid.size() ? valid[i + 1] : 0);
    if (byte < 0x20 || byte == 0x7F) {
      out += escape(byte);
    } else if (byte == 0xC2 && next < 0xA0) {  // the controls U+0080 to U+009F, of two bytes
      out += escape(next);
      ++i;
    } else {
      out += valid[i];
    }
  }
  return kept.size() < text.size() ? out + "…" : out;
}

std::string quoted_name(std::string_view name) { return "'" + printable(name) + "'"; }

}  // namespace smoe
