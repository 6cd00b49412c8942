// A run small enough for a test: a recipe, and a text to train on.
#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <string>

#include <ATen/core/Tensor.h>

#include "smoe/models/model.h"
#include "smoe/train/recipe.h"

namespace smoe::testing {

/// What a trainer asks whether it shall stop: no, and at once.
inline const std::atomic<int> kNoStop{0}, kStopAtOnce{15};

using TensorMap = std::map<std::string, at::Tensor>;

/// A text with some structure to learn, `bytes` long, the same every time.
std::string tiny_text(size_t bytes);

/// 2 layers, D 16, 4 experts of 16, k 1 → 4, 12 steps of 2 × 16 tokens, on a text written into `folder`.
Recipe tiny_recipe(const std::filesystem::path& folder);

/// What a model answers to two sequences of seven tokens.
at::Tensor output(LanguageModel& model, int64_t k);

/// What a file of a run's last checkpoint has.
TensorMap last_tensors(const std::filesystem::path& run, const std::string& file = "model.safetensors");

}  // namespace smoe::testing
