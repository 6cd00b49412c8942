#include "smoe/models/checkpoint_index.h"

#include <cmath>
#include <cstdio>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/json.h"
#include "smoe/base/quote.h"
#include "smoe/base/sha256.h"

namespace smoe {
namespace {

constexpr const char* kIndexName = "index.json";

nlohmann::ordered_json to_json(const IndexedCheckpoint& entry) {
  nlohmann::ordered_json json{{"name", entry.name}};
  json["nll"] = std::isfinite(entry.nll) ? nlohmann::ordered_json(entry.nll) : nlohmann::ordered_json(nullptr);
  return json;
}

/// The one text that stands for this index. It ends with the SHA-256 of all that is above it.
std::string to_text(const CheckpointIndex& index) {
  nlohmann::ordered_json json{{"format", "smoe-checkpoints"},
                              {"version", 1},
                              {"last", to_json(index.last)},
                              {"best_full", to_json(index.best_full)},
                              {"best_small", to_json(index.best_small)}};
  Sha256 digest;
  digest.update(as_bytes(json.dump()));
  json["sha256"] = digest.finish();
  return json.dump(2) + "\n";
}

IndexedCheckpoint read_entry(const nlohmann::ordered_json& index, const char* key,
                             const std::filesystem::path& folder) {
  const std::string source = (folder / kIndexName).string();
  const nlohmann::ordered_json json = index.value(key, nlohmann::ordered_json());
  require(json.is_object() && json.contains("name") && json["name"].is_string() && json.contains("nll") &&
              (json["nll"].is_number() || json["nll"].is_null()),
          source, ": \"", key, "\" must be {\"name\": …, \"nll\": …}");
  IndexedCheckpoint entry{.name = json["name"].get<std::string>()};
  if (json["nll"].is_number()) entry.nll = json["nll"].get<double>();
  if (entry.name.empty()) return entry;
  require(is_file_name(entry.name), source, ": \"", key, "\" names ", quoted_name(entry.name),
          ", which is not a folder beside it");
  require(is_folder(folder / entry.name), source, ": \"", key, "\" names ", quoted_name(entry.name),
          ", which is missing");
  return entry;
}

}  // namespace

std::string checkpoint_name(int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return name;
}

CheckpointIndex read_checkpoint_index(const std::filesystem::path& checkpoints) {
  const std::filesystem::path path = checkpoints / kIndexName;
  require(is_there(path), path.string(), ": no such file; the run has no checkpoint yet");
  const std::string text = read_file(path, kLargestJsonFile);
  const nlohmann::ordered_json json = parse_json(text, path.string());
  require(json.is_object() && json.value("format", nlohmann::ordered_json()) == "smoe-checkpoints" &&
              json.value("version", nlohmann::ordered_json()) == 1,
          path.string(), ": is not an index of checkpoints, version 1");
  const CheckpointIndex index{.last = read_entry(json, "last", checkpoints),
                              .best_full = read_entry(json, "best_full", checkpoints),
                              .best_small = read_entry(json, "best_small", checkpoints)};
  require(to_text(index) == text, path.string(), ": is damaged: it is not as smoe wrote it");
  return index;
}

void write_checkpoint_index(const std::filesystem::path& checkpoints, const CheckpointIndex& index) {
  write_file_atomic(checkpoints / kIndexName, to_text(index));
}

}  // namespace smoe
