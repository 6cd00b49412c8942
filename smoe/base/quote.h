// Text from outside as it can stand in a message of one line.
#pragma once

#include <string>
#include <string_view>

namespace smoe {

/// The text with U+FFFD in the place of what is not UTF-8.
std::string valid_utf8(std::string_view text);

/// The text without what would break a line or steer a terminal: control characters are escaped, what is not UTF-8
/// becomes U+FFFD, and what then is longer than `longest` bytes is cut between characters and ends in "…".
std::string printable(std::string_view text, size_t longest = 120);

/// Whether a byte of UTF-8 belongs to the character of the byte before it.
inline bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

/// A name, printable, in single quotes.
std::string quoted_name(std::string_view name);

}  // namespace smoe
