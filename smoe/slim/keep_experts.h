// Fewer experts: which of a trained model's stay, and the model that has only these.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "smoe/data/corpus.h"
#include "smoe/models/model.h"
#include "smoe/train/evaluate.h"

namespace smoe {

/// For each mixture from the lowest layer up, numbers of its experts: ids in ascending order, or one number an expert.
using ExpertIds = std::vector<std::vector<int64_t>>;
using ExpertLoads = std::vector<std::vector<double>>;

/// Each expert's share of the assignments in each mixture while the model reads a text as evaluate() does, at that
/// value of its dial.
ExpertLoads expert_loads(LanguageModel& model, const TokenSequence& text, const EvalLengths& lengths,
                         std::optional<double> dial, const std::string& source);

/// The `keep` experts of each mixture with the highest load; of equal ones the first.
ExpertIds choose_by_load(const ExpertLoads& loads, int64_t keep);

/// `keep` of the `experts` experts of each of `mixtures` mixtures at random, every choice as likely; the same seed makes
/// the same choice.
ExpertIds choose_at_random(int64_t mixtures, int64_t experts, int64_t keep, uint64_t seed);

/// Throws UserError where the model cannot do with `keep` experts in each mixture: it has none, its router has no row of
/// weights for each expert (hash, random_token, thor), or its settings do not go with so few.
void check_can_keep(const LanguageModel& model, int64_t keep);

/// A model with these experts of each mixture alone; of the router's parameters what belongs to the others is cut out, so
/// that it chooses among those that stay as it did before. Everything else is copied. Throws UserError where `kept` does
/// not fit the model: another number of mixtures, of experts in each, ids that are not ascending or out of range; and
/// where check_can_keep() does.
std::shared_ptr<LanguageModel> keep_experts(const LanguageModel& model, const ExpertIds& kept);

}  // namespace smoe
