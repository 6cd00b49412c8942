// A model that was made smaller, on disk: a checkpoint like any other, without a trainer's state.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "smoe/models/model_folder.h"
#include "smoe/slim/keep_experts.h"

namespace smoe {

/// How a model was made smaller, for slim.json.
struct SlimRecord {
  std::filesystem::path from;  ///< the checkpoint's folder
  std::string chosen_by = {};  ///< "load" or "random"; empty where all experts stay
  uint64_t seed = 0;           ///< of the random choice
  int64_t load_k = 0;          ///< active experts when the load was measured; 0: as the router is set
  std::string load_data = {};  ///< the text that it was measured on
  ExpertIds kept = {};         ///< ids of the source's experts; empty where all stay
};

/// Writes a checkpoint of `model` to `folder`, which must not exist or be empty, whole or not at all: config.json with
/// `default_k` (0: none), tokenizer, weights, slim.json and manifest. `source` is what the model was made from.
void save_slim(const std::filesystem::path& folder, LanguageModel& model, const LoadedModel& source, int64_t default_k,
               const SlimRecord& record);

}  // namespace smoe
