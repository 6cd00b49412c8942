// Where a training begins that does not draw its weights: with those of a checkpoint.
#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/json.h"
#include "smoe/base/manifest.h"
#include "smoe/train/trainer.h"
#include "smoe/train/upcycle.h"

namespace smoe {
namespace {

/// Throws UserError naming a tensor where settings of the router make others.
void check_same_tensors(const ModelSpec& given, const ModelSpec& wanted) {
  const auto from = make_model(given, RandomStream::without_values()),
             to = make_model(wanted, RandomStream::without_values());
  const auto before = from->named_parameters(), after = to->named_parameters();
  for (const auto& item : before) {
    require(after.contains(item.key()), "'", item.key(), "' of the model has no place in the recipe's");
  }
  for (const auto& item : after) {
    const at::Tensor* const own = before.find(item.key());
    require(own != nullptr, "the model has no '", item.key(), "', and the recipe's has");
    require(own->sizes() == item.value().sizes(), "'", item.key(), "' is ", own->sizes(), " in the model and ",
            item.value().sizes(), " in the recipe's");
  }
}

}  // namespace

void check_initial_model(const Recipe& recipe, const ByteVocabulary& vocabulary) {
  if (recipe.train.init.empty()) return;
  const std::filesystem::path checkpoint = resolve_model(recipe.train.init, CheckpointRole::kBestFull);
  const std::string model = checkpoint.string(), tokens = (checkpoint / "tokenizer.json").string();
  verify_manifest(checkpoint);
  require(ByteVocabulary::from_json(read_json_object(tokens), tokens).to_json() == vocabulary.to_json(),
          "train.init = \"", model, "\": its tokens are others than those of data.format = \"", recipe.data.format,
          "\" and the text");
  const ModelSpec given = read_model_card(checkpoint).spec;
  const ModelSpec wanted = recipe.spawn.spec_at(recipe.spec(vocabulary.size()), 0, recipe.train.steps);
  try {
    check_same_model(given, wanted);
    check_same_tensors(given, wanted);
  } catch (const UserError& error) {
    throw UserError(
        concat("train.init = \"", model, "\": ", error.what(), "; smoe upcycle makes a model for a recipe"));
  }
}

void Trainer::take_initial_weights() {
  if (recipe_.train.init.empty()) return;
  check_initial_model(recipe_, vocabulary_);
  const std::filesystem::path weights =
      resolve_model(recipe_.train.init, CheckpointRole::kBestFull) / "model.safetensors";
  copy_tensors(load_tensors(weights), named_tensors(*model_), weights.string());
}

}  // namespace smoe
