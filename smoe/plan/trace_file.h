// A RoutingTrace as a safetensors file; docs/formats.md says what is in it. No LibTorch.
#pragma once

#include <filesystem>

#include "smoe/plan/types.h"

namespace smoe {

inline constexpr int64_t kMostTraceExperts = 1024;  ///< of a layer; statistics are of pairs of them

/// Throws UserError naming `source` where the parts of a trace do not fit each other: no token or layer, lengths that differ,
/// an id outside its range or twice in one token, layers that do not rise.
void check_trace(const RoutingTrace& trace, const std::string& source);

/// Writes the trace; fsync. The same trace gives the same bytes. Throws UserError as check_trace() does.
void write_trace(const std::filesystem::path& path, const RoutingTrace& trace);

/// Reads what write_trace() wrote. Throws UserError naming the file for anything else.
RoutingTrace read_trace(const std::filesystem::path& path);

}  // namespace smoe
