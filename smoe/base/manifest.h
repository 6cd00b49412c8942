// The manifest of a folder: name, size and SHA-256 of every file in it, so that a truncated or altered file is refused
// by name, and so is one that is missing or was added.
#pragma once

#include <filesystem>

namespace smoe {

inline constexpr const char* kManifestName = "manifest.json";

/// Writes `folder`/manifest.json over all regular files now in the folder (no sub-folders), durably.
void write_manifest(const std::filesystem::path& folder);

/// Checks `folder` against its manifest; throws UserError naming the first file that is wrong and how.
void verify_manifest(const std::filesystem::path& folder);

}  // namespace smoe
