#include "smoe/train/memory_need.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "smoe/moe/router.h"
#include "smoe/train/evaluate.h"

namespace smoe {
namespace {

// Measured: docs/training.md, "Memory". The tool with its libraries; and what the allocator holds beside the tensors, as a
// part of them, which was between 5 % and 50 %.
constexpr double kProgram = 150e6, kUnused = 0.25;

struct ParameterBytes {
  double all = 0, trainable = 0;
};

ParameterBytes parameter_bytes(const LanguageModel& model) {
  ParameterBytes bytes;
  for (const at::Tensor& parameter : model.parameters()) {
    const auto size = static_cast<double>(parameter.nbytes());
    bytes.all += size;
    if (parameter.requires_grad()) bytes.trainable += size;
  }
  return bytes;
}

/// Experts that a token takes in training or at evaluation: their mean, or the most where that depends on the text.
double experts_of_token(Dial dial, const Recipe& recipe, bool training) {
  const auto all = static_cast<double>(recipe.moe.experts);
  switch (dial) {
    case Dial::kK: {
      const bool may_take_all = !training || find_router_kind(recipe.moe.router).traits.more_in_training;
      return may_take_all ? all : static_cast<double>(recipe.k_schedule.max);
    }
    case Dial::kThreshold: return all;
    case Dial::kCapacity: return recipe.moe.routers.expert_choice.capacity;
    case Dial::kSamples: return training ? 1 : static_cast<double>(recipe.moe.routers.thor.samples);
    case Dial::kNone: return std::min(all, recipe.moe.router == "switch" ? 1.0 : 2.0);  // gshard's top-2
  }
  return all;
}

}  // namespace

std::optional<MemoryNeed> training_memory(const LanguageModel& model, const Recipe& recipe) {
  const TrainConfig& train = recipe.train;
  if (train.device != "cpu") return std::nullopt;
  const ParameterBytes bytes = parameter_bytes(model);
  const double active = experts_of_token(model.dial(), recipe, /*training=*/true);
  const Lengths step{.batch = train.batch / train.accumulate, .segment = train.segment, .memory = train.memory};
  const PassMemory pass = model.pass_memory(step, active, /*training=*/true);
  // The objective thor makes two passes before it goes back, and keeps what symmetric_divergence() makes of their logits: both
  // logarithms, both probabilities, both differences.
  const bool thor = recipe.objective.kind == "thor";
  const double logits = 4 * static_cast<double>(step.batch * step.segment * model.spec().vocabulary);
  MemoryNeed need{.program = kProgram,
                  .weights = bytes.all,
                  .packed = pass.packed,
                  .gradients = bytes.trainable,
                  // Adam's two moments, and the mean of all weights where that is asked for.
                  .optimizer = 2 * bytes.trainable + (recipe.average.is_on() ? bytes.all : 0),
                  // A step holds what it began with until it has ended, for the case of a loss that is not finite.
                  .memory = 2 * static_cast<double>(train.accumulate) * model.memory_bytes(step, MemoryOf::kInputs),
                  .activations = (thor ? 2 * pass.kept + 6 * logits : pass.kept) + pass.passing};
  const EvalLengths eval = eval_lengths(train);
  const Lengths lengths{.batch = eval.batch, .segment = eval.segment, .memory = eval.memory};
  const PassMemory evaluation =
      model.pass_memory(lengths, experts_of_token(model.dial(), recipe, /*training=*/false), /*training=*/false);
  // Between steps there is one memory.
  need.activations = std::max(
      need.activations, evaluation.passing + model.memory_bytes(lengths, MemoryOf::kKeysAndValues) - need.memory / 2);
  need.unused = kUnused * need.tensors();
  return need;
}

MemoryNeed generation_memory(const LanguageModel& model, const ModelLengths& lengths, int64_t k) {
  constexpr int64_t kChunk = 256;  // GenerateOptions::prompt_chunk
  const double weights = parameter_bytes(model).all;
  const Lengths chunk{.batch = 1, .segment = kChunk, .memory = lengths.memory};
  const PassMemory pass = model.pass_memory(chunk, static_cast<double>(k), /*training=*/false);
  MemoryNeed need{.program = kProgram,
                  .weights = weights,
                  .packed = pass.packed,
                  .memory = model.memory_bytes(chunk, MemoryOf::kKeysAndValues),
                  // While a model is read, its weights are there a second time.
                  .activations = std::max(pass.passing, weights - pass.packed)};
  need.unused = kUnused * need.tensors();
  return need;
}

std::shared_ptr<LanguageModel> model_without_values(const Recipe& recipe, int64_t vocabulary) {
  const std::shared_ptr<LanguageModel> model = make_model(recipe.spec(vocabulary), RandomStream::without_values());
  model->set_precision(parse_precision(recipe.train.dtype));
  for (const FrozenPart& part : frozen_parts(recipe.freeze, 0, recipe.train.steps)) freeze(*model, part);
  return model;
}

std::optional<std::string> shortage(const MemoryNeed& need, const MemoryLimit& limit) {
  if (limit.bytes == 0 || need.total() <= static_cast<double>(limit.bytes)) return std::nullopt;
  return "needs about " + bytes_text(need.total()) + " of memory, and " +
         (limit.source == "this machine" ? "this machine has " : limit.source + " allows ") +
         bytes_text(static_cast<double>(limit.bytes));
}

nlohmann::ordered_json to_json(const MemoryNeed& need) {
  return {{"program", need.program},         {"weights", need.weights},     {"packed_weights", need.packed},
          {"gradients", need.gradients},     {"optimizer", need.optimizer}, {"past_tokens", need.memory},
          {"activations", need.activations}, {"unused", need.unused},       {"total", need.total()}};
}

}  // namespace smoe
