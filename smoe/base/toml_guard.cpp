#include "smoe/base/toml_guard.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>

#include "smoe/base/config_text.h"

namespace smoe {
namespace {

constexpr int kMostDots = 64;  // in a line

bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }

/// Walks over a text once and copies what the parser may see.
class Guard {
 public:
  explicit Guard(std::string_view text) : text_(text) {}

  std::string run() {
    if (text_.starts_with("\xEF\xBB\xBF")) place_ = 3;
    while (place_ < text_.size()) {
      const char c = text_[place_];
      if (c == '"' || c == '\'') {
        copy_string(c);
      } else if (c == '#') {
        place_ = std::min(text_.find('\n', place_), text_.size());
      } else {
        if (!is_ascii(c)) refuse("has a character outside quotes that is not ASCII");
        if (c == '.' && ++dots_ > kMostDots) refuse("has more than " + std::to_string(kMostDots) + " dots");
        if (c == '\n') {
          ++line_;
          dots_ = 0;
        }
        copy();
      }
    }
    return out_;
  }

 private:
  [[noreturn]] void refuse(const std::string& reason) const { throw TomlSyntaxError{line_, reason}; }

  void copy() { out_ += text_[place_++]; }

  /// Copies a string as a basic one, to its end or that of the line.
  void copy_string(char quote) {
    if (text_.substr(place_, 3) == std::string(3, quote)) refuse("strings in three quotes are not read here");
    out_ += '"';
    ++place_;
    while (place_ < text_.size() && text_[place_] != '\n') {
      const char c = text_[place_];
      if (c == quote) {
        out_ += '"';
        ++place_;
        return;
      }
      if (!is_ascii(c)) {
        copy_escaped();
      } else if (quote == '\'') {
        if (c == '"' || c == '\\') out_ += '\\';
        copy();
      } else {
        copy();
        const bool escape = c == '\\' && place_ < text_.size() && text_[place_] != '\n';
        if (escape && !is_ascii(text_[place_])) refuse("has an unknown escape in a string");
        if (escape) copy();
      }
    }
  }

  /// Copies a character of several bytes, which are known to be well-formed, as \UXXXXXXXX.
  void copy_escaped() {
    const auto byte = [&] { return static_cast<unsigned char>(text_[place_++]); };
    const unsigned char first = byte();
    const int length = std::countl_one(first);
    unsigned code = first & (0xFFu >> (length + 1));
    for (int i = 1; i < length; ++i) code = code << 6 | (byte() & 0x3Fu);
    std::array<char, 12> escape = {};
    std::snprintf(escape.data(), escape.size(), "\\U%08X", code);
    out_ += escape.data();
  }

  std::string_view text_;
  std::string out_;
  size_t place_ = 0, line_ = 1;
  int dots_ = 0;
};

}  // namespace

std::string guarded_toml(std::string_view text) {
  if (!is_utf8(text)) throw TomlSyntaxError{0, "is not valid UTF-8"};
  const size_t nul = text.find('\0');
  if (nul != std::string_view::npos) {
    throw TomlSyntaxError{static_cast<size_t>(std::count(text.begin(), text.begin() + nul, '\n')) + 1,
                          "has a NUL byte"};
  }
  return Guard(text).run();
}

}  // namespace smoe
