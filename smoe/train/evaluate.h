// Evaluation: the loss of a model on a text, at a setting of its dial.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "smoe/data/corpus.h"
#include "smoe/models/model.h"
#include "smoe/train/recipe.h"

namespace smoe {

/// The lengths of an evaluation. The memory makes the context as long as in training.
struct EvalLengths {
  int64_t batch = 10;
  int64_t segment = 128;
  int64_t memory = 896;
  int64_t tokens = 0;  ///< most tokens of the text to read, from its start; 0: all
};

EvalLengths eval_lengths(const TrainConfig& train);

/// The numbers of one evaluation.
struct EvalResult {
  Dial dial = Dial::kNone;
  std::optional<double> value;     ///< of the dial; unset: what the router's settings say, or there is no dial
  double nll = 0;                  ///< mean over the predicted tokens, in nats
  double bpc = 0;                  ///< nll / ln 2
  int64_t tokens = 0;              ///< predicted
  double mean_active_experts = 0;  ///< networks a token, averaged over layers that are mixtures
  double active_parameters = 0;
  double flops_per_token = 0;
  double tokens_per_second = 0;
};

/// Reads the text in order in contiguous streams, memory empty at the start, at the value `dial` of the model's dial: k
/// active experts, a threshold …; unset: every expert where the dial is k, else what the router's settings say. `source`
/// names the text in messages. Fewer streams are used where the text is too short; a router that is random at evaluation
/// draws the same at every evaluation. `book` gets the routing's statistics where it is not null. Throws UserError for
/// fewer than two tokens.
EvalResult evaluate(LanguageModel& model, const TokenSequence& text, const EvalLengths& lengths,
                    std::optional<double> dial, const std::string& source, StatsBook* book = nullptr);

/// The text that a checkpoint was trained on and its step, as its trainer.json says, or the slim.json of a model that was
/// made smaller, the upcycle.json of one that was made larger, or the average.json of averaged weights; empty and 0 where
/// there is none.
struct RecordedData {
  std::string path, sha256;
  int64_t step = 0;
};
RecordedData recorded_data(const std::filesystem::path& checkpoint);

/// The recipe that a checkpoint was trained by, from the same files; nothing where it is not told. Throws UserError where
/// what is there is no recipe.
std::optional<Recipe> recorded_recipe(const std::filesystem::path& checkpoint);

/// One entry of the "results" of smoe eval --json.
nlohmann::ordered_json to_json(const EvalResult& result);

}  // namespace smoe
