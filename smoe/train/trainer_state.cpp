// What a checkpoint holds beside the model: trainer.safetensors (optimizer, memory) and trainer.json (the rest).
#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/json.h"
#include "smoe/base/manifest.h"
#include "smoe/base/quote.h"
#include "smoe/train/trainer.h"

namespace smoe {
namespace {

std::string memory_name(size_t micro_batch, size_t layer) { return concat("memory.", micro_batch, ".", layer); }

int64_t integer(const nlohmann::ordered_json& json, const char* key, const std::string& source) {
  const auto found = json.find(key);
  require(found != json.end() && found->is_number_integer(), source, ": \"", key, "\" must be an integer");
  return found->get<int64_t>();
}

std::string text(const nlohmann::ordered_json& json, const char* key, const std::string& source) {
  const auto found = json.find(key);
  require(found != json.end() && found->is_string(), source, ": \"", key, "\" must be a string");
  return found->get<std::string>();
}

double number(const nlohmann::ordered_json& json, const char* key, const std::string& source) {
  const auto found = json.find(key);
  require(found != json.end() && found->is_number(), source, ": \"", key, "\" must be a number");
  return found->get<double>();
}

}  // namespace

ModelLengths Trainer::model_lengths() const {
  const EvalLengths eval = eval_lengths(recipe_.train);
  return {.memory = recipe_.train.memory,
          .eval_batch = eval.batch,
          .eval_segment = eval.segment,
          .eval_memory = eval.memory};
}

void Trainer::save(const CheckpointStore::Scores& scores) {
  // What the logs say up to this step must not be younger on the disk than the checkpoint that continues them.
  metrics_->sync();
  timing_->sync();
  store_.save(step_, scores, [this](const std::filesystem::path& folder) {
    save_model(folder, *model_, vocabulary_, model_lengths());
    NamedTensors state = optimizer_.state();
    if (average_) {
      for (const auto& entry : average_->state()) state.push_back(entry);
    }
    for (size_t i = 0; i < memories_.size(); ++i) {
      for (size_t layer = 0; layer < memories_[i].layers.size(); ++layer) {
        state.emplace_back(memory_name(i, layer), memories_[i].layers[layer].inputs);
      }
    }
    save_tensors(folder / "trainer.safetensors", state);
    nlohmann::ordered_json json{
        {"format", "smoe-trainer"},
        {"version", 1},
        {"step", step_},
        {"tokens", tokens_},
        {"loss_sum", loss_sum_},
        {"loss_count", loss_count_},
        {"stream", {{"offset", stream_.position().offset}, {"epoch", stream_.position().epoch}}},
        {"data", {{"path", files_.path()}, {"sha256", data_sha256_}}},
        {"recipe", to_json(recipe_.fields())},
    };
    if (average_) json["average_snapshots"] = average_->snapshots();
    write_file_atomic(folder / "trainer.json", json.dump(2) + "\n");
  });
}

void Trainer::load(const std::filesystem::path& checkpoint) {
  verify_manifest(checkpoint);
  const std::string source = (checkpoint / "trainer.json").string();
  const nlohmann::ordered_json json = read_json_object(source);
  require(json.value("format", nlohmann::ordered_json()) == "smoe-trainer" &&
              json.value("version", nlohmann::ordered_json()) == 1 && json.contains("stream") &&
              json.contains("data") && json["data"].is_object(),
          source, ": is not a trainer's state, version 1");
  step_ = integer(json, "step", source);
  tokens_ = integer(json, "tokens", source);
  loss_sum_ = number(json, "loss_sum", source);
  loss_count_ = integer(json, "loss_count", source);
  stream_.seek({integer(json["stream"], "offset", source), integer(json["stream"], "epoch", source)});
  const std::string sha256 = text(json["data"], "sha256", source);
  require(sha256 == data_sha256_, files_.path(), ": is not the text that this run was started with (its SHA-256 is ",
          data_sha256_, ", the run's ", printable(sha256), ")");

  if (recipe_.spawn.is_on()) use_model(drawn_model(step_));
  const std::filesystem::path weights = checkpoint / "model.safetensors";
  copy_tensors(load_tensors(weights), named_tensors(*model_), weights.string());
  const std::filesystem::path state_path = checkpoint / "trainer.safetensors";
  NamedTensors optimizer_state, average_state;
  const at::Device device(recipe_.train.device);
  for (auto& [name, tensor] : load_tensors(state_path)) {
    bool is_memory = false;
    for (size_t i = 0; i < memories_.size(); ++i) {
      for (size_t layer = 0; layer < memories_[i].layers.size(); ++layer) {
        if (name != memory_name(i, layer)) continue;
        at::Tensor& inputs = memories_[i].layers[layer].inputs;
        require(tensor.dim() == 3 && tensor.size(0) == inputs.size(0) && tensor.size(2) == inputs.size(2),
                state_path.string(), ": tensor '", name, "' has shape ", tensor.sizes(), ", which is no memory here");
        inputs = tensor.to(device);
        is_memory = true;
      }
    }
    if (is_memory) continue;
    (average_ && name.starts_with("average.") ? average_state : optimizer_state).emplace_back(name, tensor);
  }
  freeze_parts(0);  // what was frozen by then is not in the optimizer's state
  optimizer_.load_state(optimizer_state, state_path.string());
  if (average_) average_->load_state(average_state, integer(json, "average_snapshots", source), state_path.string());
}

}  // namespace smoe
