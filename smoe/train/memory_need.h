// How much memory a training or a trained model needs, told before there is either.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "smoe/base/machine_memory.h"
#include "smoe/models/model.h"
#include "smoe/models/model_folder.h"
#include "smoe/train/recipe.h"

namespace smoe {

/// Bytes by what they are for. An estimate for a CPU: gradients and activations count as if all of both were there at
/// once. Files that are mapped do not count, since their pages are the system's to drop. docs/training.md says how close it
/// comes.
struct MemoryNeed {
  double program = 0;      ///< the tool itself and its libraries
  double weights = 0;      ///< parameters in fp32
  double packed = 0;       ///< copies of expert weights in the kernels' order
  double gradients = 0;    ///< of trainable parameters
  double optimizer = 0;    ///< Adam's two moments, and averaged weights
  double memory = 0;       ///< of past tokens: inputs in training, in generation keys, values and places
  double activations = 0;  ///< what forward and backward pass make, or an evaluation where that is more
  double unused = 0;       ///< what lies between the blocks that the allocator has given out

  double tensors() const { return weights + packed + gradients + optimizer + memory + activations; }
  double total() const { return program + tensors() + unused; }
};

/// Of training by the recipe; the model is that recipe's, and may be without values. Nothing where it trains on another
/// device than the CPU.
std::optional<MemoryNeed> training_memory(const LanguageModel& model, const Recipe& recipe);

/// Of smoe generate at k active experts.
MemoryNeed generation_memory(const LanguageModel& model, const ModelLengths& lengths, int64_t k);

/// The recipe's model without values: shapes, counts and costs without the memory that a real one takes.
std::shared_ptr<LanguageModel> model_without_values(const Recipe& recipe, int64_t vocabulary);

/// One line that says that `need` exceeds `limit`; nothing where it does not, or the limit is not known.
std::optional<std::string> shortage(const MemoryNeed& need, const MemoryLimit& limit);

nlohmann::ordered_json to_json(const MemoryNeed& need);

}  // namespace smoe
