// A model on disk: config.json, model.safetensors and tokenizer.json in a checkpoint's folder, and how a user's MODEL
// argument becomes one.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "smoe/base/config.h"
#include "smoe/data/tokenizers/byte_vocabulary.h"
#include "smoe/models/model.h"
#include "smoe/tensor/tensor_io.h"

namespace smoe {

/// What config.json says of a model beside its architecture: the lengths it was trained and is evaluated at.
struct ModelLengths {
  int64_t memory = 512;  ///< past tokens a query sees in generation
  int64_t eval_batch = 10;
  int64_t eval_segment = 128;
  int64_t eval_memory = 896;

  void describe(Fields& fields);
};

/// A checkpoint's config.json: the recipe's tables [model] and [moe], the vocabulary's size, the lengths, and the k that
/// is meant where nobody names one.
struct ModelCard {
  ModelSpec spec;
  ModelLengths lengths;
  int64_t default_k = 0;  ///< 0: the model has none, and every expert is meant

  Fields fields();
};

/// Reads config.json of a checkpoint; throws UserError naming the file and what is wrong in it.
ModelCard read_model_card(const std::filesystem::path& checkpoint);

/// A model read from disk.
struct LoadedModel {
  std::shared_ptr<LanguageModel> model;
  ByteVocabulary vocabulary;
  ModelLengths lengths;
  int64_t default_k = 0;         ///< as in ModelCard
  std::filesystem::path folder;  ///< the checkpoint's
};

/// Which checkpoint a run stands for.
enum class CheckpointRole { kBestFull, kBestSmall, kLast };

/// Writes config.json, tokenizer.json and model.safetensors into `folder`. Throws UserError for a default k that the model
/// does not have.
void save_model(const std::filesystem::path& folder, LanguageModel& model, const ByteVocabulary& vocabulary,
                const ModelLengths& lengths, int64_t default_k = 0);

/// Reads a checkpoint folder after checking it against its manifest. Throws UserError naming the file that is wrong.
LoadedModel load_model(const std::filesystem::path& checkpoint);

/// All parameters of a model by name, frozen ones included.
NamedTensors named_tensors(const torch::nn::Module& model);

/// The checkpoint that `model` means: a checkpoint folder is itself; a run means the one of that role. Recognised by
/// content. Throws UserError saying what was found instead.
std::filesystem::path resolve_model(const std::filesystem::path& model, CheckpointRole role);

}  // namespace smoe
