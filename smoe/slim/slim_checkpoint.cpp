#include "smoe/slim/slim_checkpoint.h"

#include <nlohmann/json.hpp>

#include "smoe/base/file.h"
#include "smoe/base/manifest.h"
#include "smoe/base/sha256.h"
#include "smoe/train/evaluate.h"

namespace smoe {
namespace {

/// slim.json: what was done, to what, and what the source said of the text and the recipe it was trained by.
nlohmann::ordered_json to_json(const SlimRecord& record, int64_t default_k) {
  const RecordedData data = recorded_data(record.from);
  nlohmann::ordered_json json{{"format", "smoe-slim"}, {"version", 1}, {"step", data.step}};
  json["from"] = {{"path", std::filesystem::absolute(record.from).lexically_normal().string()},
                  {"manifest_sha256", sha256_file(record.from / kManifestName)}};
  json["default_k"] = default_k;
  json["chosen_by"] = record.chosen_by;
  if (record.chosen_by == "random") json["seed"] = record.seed;
  if (record.chosen_by == "load") {
    json["load"] = {{"k", record.load_k > 0 ? nlohmann::ordered_json(record.load_k) : nullptr},
                    {"data", record.load_data}};
  }
  json["kept"] = record.kept;
  json["data"] = {{"path", data.path}, {"sha256", data.sha256}};
  std::optional<Recipe> recipe = recorded_recipe(record.from);
  if (recipe) json["recipe"] = to_json(recipe->fields());
  return json;
}

}  // namespace

void save_slim(const std::filesystem::path& folder, LanguageModel& model, const LoadedModel& source, int64_t default_k,
               const SlimRecord& record) {
  make_folder_atomic(folder, [&](const std::filesystem::path& temporary) {
    save_model(temporary, model, source.vocabulary, source.lengths, default_k);
    write_file_atomic(temporary / "slim.json", to_json(record, default_k).dump(2) + "\n");
  });
}

}  // namespace smoe
