// JSON from outside. nlohmann's own reader takes texts of any depth, whose values then exhaust the stack when they are
// copied or written; it keeps one of two members of the same name, and takes a NUL for the end of the text, whatever
// follows. So every text that may not be ours comes through here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

namespace smoe {

inline constexpr size_t kDeepestJson = 64;             ///< objects and arrays inside each other
inline constexpr uint64_t kLargestJsonFile = 1 << 20;  ///< of those that are read as a whole; no log is

/// Parses a JSON text. Throws UserError naming `source`, and where in the text it is, for what is not JSON, a number that
/// no double holds, two members of an object with the same name, and what is nested deeper than kDeepestJson.
template <class Json = nlohmann::ordered_json>
Json parse_json(std::string_view text, const std::string& source);

extern template nlohmann::json parse_json(std::string_view text, const std::string& source);
extern template nlohmann::ordered_json parse_json(std::string_view text, const std::string& source);

/// Reads a file that holds one JSON object, in at most kLargestJsonFile bytes. Throws UserError naming the file.
nlohmann::ordered_json read_json_object(const std::filesystem::path& path);

}  // namespace smoe
