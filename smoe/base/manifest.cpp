#include "smoe/base/manifest.h"

#include <cstdint>
#include <map>
#include <string>
#include <system_error>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/json.h"
#include "smoe/base/quote.h"
#include "smoe/base/sha256.h"

namespace smoe {
namespace {

using Json = nlohmann::ordered_json;

struct Entry {
  uint64_t size = 0;
  std::string sha256;
};

using Entries = std::map<std::string, Entry>;  // by name

/// The regular files of a folder, the manifest apart; digests are left empty.
Entries list_files(const std::filesystem::path& folder) {
  Entries files;
  for (const auto& entry : list_folder(folder)) {
    const std::string name = entry.path().filename().string();
    if (name != kManifestName && entry.is_regular_file()) files[name].size = entry.file_size();
  }
  return files;
}

/// The one text that stands for these entries.
std::string to_text(const Entries& entries) {
  Json files = Json::object();
  for (const auto& [name, entry] : entries) files[name] = Json{{"size", entry.size}, {"sha256", entry.sha256}};
  return Json{{"format", "smoe-manifest"}, {"version", 1}, {"files", files}}.dump(2) + "\n";
}

/// Reads what to_text wrote and nothing else: a changed byte that leaves the values as they are is refused as well.
Entries from_text(const std::string& text, const std::string& source) {
  const Json json = parse_json(text, source);
  require(json.is_object() && json.value("format", Json()) == "smoe-manifest" && json.contains("version") &&
              json.contains("files") && json["files"].is_object(),
          source, ": is damaged or not a manifest of smoe");
  require(json["version"] == 1, source, ": has a version that this build does not know; it knows 1");
  Entries entries;
  for (const auto& [name, entry] : json["files"].items()) {
    require(entry.is_object() && entry.contains("size") && entry["size"].is_number_unsigned() &&
                entry.contains("sha256") && entry["sha256"].is_string(),
            source, ": is damaged: the entry of ", quoted_name(name), " has no size or no sha256");
    require(is_file_name(name), source, ": is damaged: it lists ", quoted_name(name),
            ", which is not a file beside it");
    entries[name] = {entry["size"].get<uint64_t>(), entry["sha256"].get<std::string>()};
  }
  require(to_text(entries) == text, source, ": is damaged: it is not as smoe wrote it");
  return entries;
}

}  // namespace

void write_manifest(const std::filesystem::path& folder) {
  Entries files = list_files(folder);
  for (auto& [name, entry] : files) entry.sha256 = sha256_file(folder / name);
  try {
    write_file_atomic(folder / kManifestName, to_text(files));
  } catch (const Json::type_error&) {
    throw UserError(concat(folder.string(), ": a file's name in it is not valid UTF-8"));
  }
}

void make_folder_atomic(const std::filesystem::path& folder,
                        const std::function<void(const std::filesystem::path&)>& fill) {
  const bool is_free = !is_there(folder) || (is_folder(folder) && list_folder(folder).empty());
  require(is_free, folder.string(), ": is there already");
  const std::filesystem::path parent = folder.parent_path();
  const std::filesystem::path temporary = parent / (".saving-" + folder.filename().string());
  make_folders(parent);
  remove_tree(temporary);
  make_folders(temporary);
  try {
    fill(temporary);
    write_manifest(temporary);
    sync_folder(temporary);
    rename_over(temporary, folder);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove_all(temporary, ignored);
    throw;
  }
  sync_folder(parent.empty() ? "." : parent);
}

void verify_manifest(const std::filesystem::path& folder) {
  const std::filesystem::path manifest = folder / kManifestName;
  const Entries listed = from_text(read_file(manifest, kLargestJsonFile), manifest.string());
  const Entries present = list_files(folder);
  for (const auto& [name, entry] : listed) {
    const std::string shown = (folder / printable(name)).string();
    const auto found = present.find(name);
    require(found != present.end(), shown, " is missing");
    require(found->second.size == entry.size, shown, " is ", found->second.size, " bytes, ", kManifestName, " says ",
            entry.size);
    const std::string digest = sha256_file(folder / name);
    require(digest == entry.sha256, shown, ": sha256 is ", digest, ", ", kManifestName, " says ",
            printable(entry.sha256));
  }
  for (const auto& [name, entry] : present) {
    require(listed.contains(name), (folder / printable(name)).string(), " is not listed in ", kManifestName);
  }
}

}  // namespace smoe
