// The nearest valid name to a mistyped one, for error messages.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace smoe {

/// Number of insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`.
size_t edit_distance(std::string_view a, std::string_view b);

/// The candidate nearest to `name`; empty where none is near enough to be a plausible slip.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

/// "; did you mean 'x'?" where a candidate is near, else "; known: a, b, c".
std::string suggest(std::string_view name, const std::vector<std::string>& candidates);

/// The names with ", " between them.
std::string join(const std::vector<std::string>& names, std::string_view separator = ", ");

}  // namespace smoe
