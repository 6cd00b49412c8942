// The manifest of a folder: name, size and SHA-256 of every file in it, so that a truncated or altered file is refused
// by name, and so is one that is missing or was added.
#pragma once

#include <filesystem>
#include <functional>

namespace smoe {

inline constexpr const char* kManifestName = "manifest.json";

/// Writes `folder`/manifest.json over all regular files now in the folder (no sub-folders), durably.
void write_manifest(const std::filesystem::path& folder);

/// Makes a folder with a manifest so that after a crash it is whole or not there: `fill` writes the files into a folder
/// ".saving-NAME" beside it, which then gets its manifest, is made durable and renamed. Folders above it that are missing
/// are made; what an earlier attempt left there goes first. Throws UserError where there is something at `folder` already
/// that is not an empty folder.
void make_folder_atomic(const std::filesystem::path& folder,
                        const std::function<void(const std::filesystem::path&)>& fill);

/// Checks `folder` against its manifest; throws UserError naming the first file that is wrong and how.
void verify_manifest(const std::filesystem::path& folder);

}  // namespace smoe
