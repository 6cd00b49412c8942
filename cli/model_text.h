// The text that a verb runs a model on.
#pragma once

#include <string>

#include "smoe/models/model_folder.h"
#include "smoe/train/evaluate.h"

namespace smoe::cli {

struct ModelText {
  CorpusFiles files;
  std::string sha256;
};

/// The text at `data`, or where that is empty the one that the model was trained on, with a warning on stderr where it has
/// changed since. `name` is the model's for messages. Throws UserError where no text is known or there.
ModelText open_text(const LoadedModel& loaded, const std::string& data, const std::string& name);

/// The lengths that the model is evaluated with, on at most `tokens` tokens; 0: all.
EvalLengths lengths_of(const LoadedModel& loaded, int64_t tokens);

}  // namespace smoe::cli
