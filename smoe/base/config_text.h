// Single values as TOML text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace smoe {

/// The shortest text that reads back as exactly this double, and never as an integer.
std::string double_text(double value);

/// A basic string of TOML, quoted and escaped.
std::string string_text(std::string_view text);

/// "[1, 2, 3]".
std::string list_text(const std::vector<int64_t>& values);
/// The same of strings, quoted.
std::string list_text(const std::vector<std::string>& values);

bool is_utf8(std::string_view text);

}  // namespace smoe
