#include "smoe/models/model_folder.h"

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/json.h"
#include "smoe/base/manifest.h"
#include "smoe/models/checkpoint_index.h"

namespace smoe {
namespace {

constexpr int kVersion = 1;

void check_default_k(const ModelCard& card, const std::string& source) {
  if (card.default_k == 0) return;
  const ModelSpec& spec = card.spec;
  require(spec.has_moe(), source, ": default_k = ", card.default_k, ", but a dense model has no k");
  require(find_router_kind(spec.moe.router).traits.dial == Dial::kK, source, ": default_k = ", card.default_k,
          ", but the router '", spec.moe.router, "' has no k");
  require(card.default_k <= spec.moe.experts, source, ": default_k = ", card.default_k, " is larger than ",
          spec.moe.experts, ", the model's number of experts");
}

}  // namespace

Fields ModelCard::fields() {
  Fields all;
  all.table("model", spec.model);
  all.table("moe", spec.moe);
  all.add("vocabulary", &spec.vocabulary, "number of token ids", at_least(1));
  all.table("lengths", lengths);
  all.add_newer("default_k", &default_k, "active experts where nobody names a number; 0: all", at_least(0));
  return all;
}

ModelCard read_model_card(const std::filesystem::path& checkpoint) {
  const std::filesystem::path path = checkpoint / "config.json";
  nlohmann::ordered_json json = read_json_object(path);
  require(json.value("format", nlohmann::ordered_json()) == "smoe", path.string(),
          ": \"format\" is not \"smoe\"; this is not a model that smoe wrote");
  require(json.value("version", nlohmann::ordered_json()) == kVersion, path.string(), ": \"version\" must be ",
          kVersion, "; a newer smoe may have written it");
  json.erase("format");
  json.erase("version");
  ModelCard card;
  from_json(card.fields(), json, path.string());
  card.spec.check();
  check_default_k(card, path.string());
  return card;
}

void ModelLengths::describe(Fields& fields) {
  fields.add("memory", &memory, "past tokens a query sees in generation", at_least(0));
  fields.add("eval_batch", &eval_batch, "parallel streams of an evaluation", at_least(1));
  fields.add("eval_segment", &eval_segment, "segment of an evaluation", at_least(1));
  fields.add("eval_memory", &eval_memory, "memory of an evaluation", at_least(0));
}

NamedTensors named_tensors(const torch::nn::Module& model) {
  NamedTensors out;
  for (const auto& item : model.named_parameters()) out.emplace_back(item.key(), item.value());
  return out;
}

void save_model(const std::filesystem::path& folder, LanguageModel& model, const ByteVocabulary& vocabulary,
                const ModelLengths& lengths, int64_t default_k) {
  ModelCard card{model.spec(), lengths, default_k};
  check_default_k(card, folder.string());
  nlohmann::ordered_json config{{"format", "smoe"}, {"version", kVersion}};
  config.update(to_json(card.fields()));
  if (default_k == 0) config.erase("default_k");
  write_file_atomic(folder / "config.json", config.dump(2) + "\n");
  write_file_atomic(folder / "tokenizer.json", vocabulary.to_json().dump() + "\n");
  save_tensors(folder / "model.safetensors", named_tensors(model), {{"format", "smoe"}});
}

LoadedModel load_model(const std::filesystem::path& checkpoint) {
  verify_manifest(checkpoint);
  const ModelCard card = read_model_card(checkpoint);
  LoadedModel loaded;
  loaded.folder = checkpoint;
  loaded.lengths = card.lengths;
  loaded.default_k = card.default_k;
  const std::filesystem::path tokenizer = checkpoint / "tokenizer.json";
  loaded.vocabulary = ByteVocabulary::from_json(read_json_object(tokenizer), tokenizer.string());
  require(loaded.vocabulary.size() == card.spec.vocabulary, tokenizer.string(), ": has ", loaded.vocabulary.size(),
          " tokens, config.json says ", card.spec.vocabulary);
  loaded.model = make_model(card.spec, RandomStream(0));
  const std::filesystem::path weights = checkpoint / "model.safetensors";
  copy_tensors(load_tensors(weights), named_tensors(*loaded.model), weights.string());
  return loaded;
}

std::filesystem::path resolve_model(const std::filesystem::path& model, CheckpointRole role) {
  require(is_there(model), model.string(), ": no such run or checkpoint");
  require(is_folder(model), model.string(), ": is a file; MODEL is a run or a checkpoint, and both are folders");
  if (is_there(model / kManifestName)) return model;
  const std::filesystem::path checkpoints = model / "checkpoints";
  require(is_folder(checkpoints), model.string(),
          ": is neither a checkpoint (no manifest.json) nor a run (no checkpoints/)");
  const CheckpointIndex index = read_checkpoint_index(checkpoints);
  require(!index.last.name.empty(), model.string(), ": the run has no checkpoint yet");
  const auto& entry = role == CheckpointRole::kBestFull    ? index.best_full
                      : role == CheckpointRole::kBestSmall ? index.best_small
                                                           : index.last;
  // Before the first evaluation there is no best one yet.
  return checkpoints / (entry.name.empty() ? index.last.name : entry.name);
}

}  // namespace smoe
