// Routing traces of a model: who took which token of a text.
#pragma once

#include <optional>
#include <string>

#include "smoe/models/model_folder.h"
#include "smoe/plan/types.h"
#include "smoe/train/evaluate.h"

namespace smoe {

/// How many tokens the likeness of experts is measured on: the first of each layer.
inline constexpr int64_t kSimilarityTokens = 256;

/// Reads the text as evaluate() does, at that value of the dial, and notes where each token went in each mixture, and how
/// alike the networks of a mixture are: the cosine of what two of them make of the first kSimilarityTokens tokens, averaged;
/// a network that makes nothing of a token has cosine 0 with all there. Not measured where an output is not finite. Throws
/// UserError for a dense model, one with more experts than a trace can have, and as evaluate() does.
RoutingTrace trace_routing(const LoadedModel& loaded, const TokenSequence& text, const EvalLengths& lengths,
                           std::optional<double> dial, const std::string& source);

}  // namespace smoe
