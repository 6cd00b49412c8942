// A guard in front of the TOML parser, which does not survive every text.
#pragma once

#include <string>
#include <string_view>

namespace smoe {

/// Why a text is not TOML; the line is 0 where it is not known.
struct TomlSyntaxError {
  size_t line;
  std::string reason;
};

/// The same document, line by line, without what toml++ 3.3 does not survive:
/// - Characters beyond ASCII where it looks for blanks, be it by a slip of the text, are undefined behaviour. In strings
///   they become escapes; comments are dropped.
/// - Keys with very many dots exhaust its stack.
/// Throws TomlSyntaxError for such keys, for other characters beyond ASCII, for what is not UTF-8, for NUL bytes, and for
/// strings in three quotes, for which settings have no use.
std::string guarded_toml(std::string_view text);

}  // namespace smoe
