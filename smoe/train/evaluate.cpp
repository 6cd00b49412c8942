#include "smoe/train/evaluate.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <numbers>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/json.h"
#include "smoe/data/batch_stream.h"
#include "smoe/moe/moe_layer.h"

namespace smoe {
namespace {

/// What says how a checkpoint came about: its trainer.json, the slim.json of a model that was made smaller, the upcycle.json
/// of one that was made larger, or the average.json of averaged weights.
struct Record {
  std::filesystem::path path;
  nlohmann::ordered_json json;
};

std::optional<Record> read_record(const std::filesystem::path& checkpoint) {
  for (const char* name : {"trainer.json", "slim.json", "upcycle.json", "average.json"}) {
    const std::filesystem::path path = checkpoint / name;
    if (is_there(path)) return Record{path, read_json_object(path)};
  }
  return std::nullopt;
}

}  // namespace

EvalLengths eval_lengths(const TrainConfig& train) {
  return {.batch = train.eval_batch,
          .segment = train.eval_segment,
          .memory = train.memory + train.segment - train.eval_segment,
          .tokens = 0};
}

EvalResult evaluate(LanguageModel& model, const TokenSequence& text, const EvalLengths& lengths,
                    std::optional<double> dial, const std::string& source, StatsBook* given_book) {
  const at::NoGradGuard no_grad;
  require(text.size() >= 2, source, " has ", text.size(),
          " tokens; an evaluation predicts at least one, from one before it");
  const int64_t streams = std::clamp<int64_t>(text.size() / 2, 1, lengths.batch);
  BatchStream stream(text, streams, lengths.segment, 0, streams, source);
  int64_t left = stream.targets_per_row();
  if (lengths.tokens > 0) left = std::min(left, std::max<int64_t>(1, lengths.tokens / streams));

  const at::Device device = model.parameters()[0].device();
  EvalResult result;
  result.dial = model.dial();
  if (result.dial == Dial::kK && !dial) dial = static_cast<double>(model.spec().moe.experts);
  if (result.dial != Dial::kNone) result.value = dial;
  const bool dial_is_k = result.dial == Dial::kK;
  Memory memory = model.empty_memory(streams, MemoryOf::kKeysAndValues);
  StatsBook own_book(StatsBook::Detail::kCounts);
  StatsBook& book = given_book != nullptr ? *given_book : own_book;
  at::Tensor sum;  // [] double, on the device, which is waited for at the end
  int64_t tokens = 0;
  const auto start = std::chrono::steady_clock::now();
  for (int64_t segment = 0; left > 0; ++segment) {
    Segment next = stream.next();
    const int64_t size = std::min(left, next.input.size(1));
    left -= size;
    book.begin_micro_batch(segment);
    Pass pass{.k = dial_is_k ? ActiveK(static_cast<int64_t>(*dial)) : ActiveK(),
              .dial = dial_is_k ? std::nullopt : result.value,
              .memory_length = lengths.memory,
              .book = &book};
    pass.random = RandomStream(0).at("evaluation").at(static_cast<uint64_t>(segment));
    const at::Tensor logits = model.forward(next.input.narrow(1, 0, size).to(device), memory, pass);
    const int64_t count = streams * size;
    const at::Tensor nll = mean_nll(logits, next.target.narrow(1, 0, size).to(device)).to(at::kDouble) * count;
    sum = sum.defined() ? sum + nll : nll;
    tokens += count;
  }
  const double nll = sum.defined() ? sum.item<double>() : 0;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;

  result.nll = nll / static_cast<double>(tokens);
  result.bpc = result.nll / std::numbers::ln2;
  result.tokens = tokens;
  const std::vector<LayerStats> layers = book.layers();
  const std::vector<MoeLayer*> mixtures = model.mixtures();
  std::vector<ActiveExperts> active;
  for (size_t i = 0; i < layers.size(); ++i) {
    active.emplace_back(layers[i]);
    result.mean_active_experts += mixtures.at(i)->active_networks(active[i]);
  }
  if (!layers.empty()) result.mean_active_experts /= static_cast<double>(layers.size());
  result.active_parameters = model.active_parameters(active);
  result.flops_per_token =
      model.flops_per_token({.batch = streams, .segment = lengths.segment, .memory = lengths.memory}, active);
  result.tokens_per_second = static_cast<double>(tokens) / seconds.count();
  return result;
}

RecordedData recorded_data(const std::filesystem::path& checkpoint) {
  const std::optional<Record> record = read_record(checkpoint);
  if (!record) return {};
  const nlohmann::ordered_json& json = record->json;
  const nlohmann::ordered_json data = json.value("data", nlohmann::ordered_json());
  const auto is_text = [&](const char* key) { return data.contains(key) && data[key].is_string(); };
  require(is_text("path") && is_text("sha256") && json.contains("step") && json["step"].is_number_integer(),
          record->path.string(), ": has no \"step\", or no \"data\" with \"path\" and \"sha256\"");
  return {data["path"].get<std::string>(), data["sha256"].get<std::string>(), json["step"].get<int64_t>()};
}

std::optional<Recipe> recorded_recipe(const std::filesystem::path& checkpoint) {
  const std::optional<Record> record = read_record(checkpoint);
  if (!record || !record->json.contains("recipe")) return std::nullopt;
  Recipe recipe;
  from_json(recipe.fields(), record->json["recipe"], record->path.string() + ": its recipe");
  return recipe;
}

nlohmann::ordered_json to_json(const EvalResult& result) {
  nlohmann::ordered_json json{{"dial", dial_name(result.dial)}};
  json["value"] = nullptr;
  if (result.value && has_whole_values(result.dial)) {
    json["value"] = static_cast<int64_t>(*result.value);
  } else if (result.value) {
    json["value"] = *result.value;
  }
  if (result.dial == Dial::kK) json["k"] = json["value"];
  json["mean_active_experts"] = result.mean_active_experts;
  json["nll"] = result.nll;
  json["bpc"] = result.bpc;
  json["tokens"] = result.tokens;
  json["active_parameters"] = result.active_parameters;
  json["flops_per_token"] = result.flops_per_token;
  json["tokens_per_second"] = result.tokens_per_second;
  return json;
}

}  // namespace smoe
