// Upcycling: a trained model becomes a larger one that begins with what it knows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "smoe/models/model_folder.h"

namespace smoe {

struct Recipe;

/// Throws UserError naming the first setting, and its two values, in which a model of `to` has other tensors than one of
/// `from`, or computes something else with them; "the model" and "the recipe" are what it calls the two.
void check_same_model(const ModelSpec& from, const ModelSpec& to);

/// What becomes of a trained model as one of `spec`:
/// - Layers that are dense in both, and all that is no feed-forward block, are copied.
/// - A dense block that is to be a mixture gives its weights to every network of it (Komatsuzaki et al., "Sparse
///   Upcycling", ICLR 2023); the router is the one that is drawn. Where a token's weights sum to 1, the mixture answers as
///   the block did, at any k.
/// - A mixture that stays one keeps its networks and its router. It may get null experts: their rows of the router are
///   copies of the networks' rows, over and over (Zeng et al., "AdaMoE", EMNLP Findings 2024, §3.3).
/// What is new is as make_model(spec, random) draws it. Throws UserError where that cannot be: settings that differ, a
/// width of experts that is not the block's, shared experts that would add to it, a mixture that is to be dense or to have
/// other networks, a router that has parameters which the other has not.
std::shared_ptr<LanguageModel> upcycle(const LanguageModel& model, const ModelSpec& spec, const RandomStream& random);

/// The model that a training by `recipe` begins with where it goes on from `source`, drawn from train.seed as the training
/// would. Throws UserError as upcycle() does, and where the recipe's tokens are others than the source's.
std::shared_ptr<LanguageModel> upcycle(const LoadedModel& source, const Recipe& recipe);

/// Writes a checkpoint of the upcycled `model` to `folder`, which must not exist or be empty, whole or not at all:
/// config.json, tokenizer, weights, upcycle.json and manifest. `source` and `recipe` are what it was made from.
void save_upcycled(const std::filesystem::path& folder, LanguageModel& model, const LoadedModel& source,
                   const Recipe& recipe);

}  // namespace smoe
