// A run small enough for a test: a recipe, and a text to train on.
#pragma once

#include <filesystem>
#include <string>

#include "smoe/train/recipe.h"

namespace smoe::testing {

/// A text with some structure to learn, `bytes` long, the same every time.
std::string tiny_text(size_t bytes);

/// 2 layers, D 16, 4 experts of 16, k 1 → 4, 12 steps of 2 × 16 tokens, on a text written into `folder`.
Recipe tiny_recipe(const std::filesystem::path& folder);

}  // namespace smoe::testing
