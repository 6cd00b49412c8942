// Text from a model, token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "smoe/models/model.h"

namespace smoe {

/// How a token is drawn from the model's distribution.
struct SamplingOptions {
  double temperature = 1;  ///< logits are divided by it; 0 takes the likeliest token
  double top_p = 1;        ///< draw from the fewest tokens whose probabilities reach this sum
  uint64_t seed = 0;

  /// Throws UserError for a temperature below 0 or a top_p outside (0, 1].
  void check() const;
};

/// One draw from logits [V]; `uniform` in [0, 1) decides.
int64_t sample_token(const at::Tensor& logits, const SamplingOptions& options, double uniform);

/// How to generate.
struct GenerateOptions {
  int64_t k = 1;                    ///< active experts, for models whose dial is k
  std::optional<double> dial = {};  ///< for models with another dial; unset: what the router's settings say
  int64_t tokens = 200;             ///< how many to generate
  int64_t memory = 512;             ///< each query attends to at most memory + 1 keys
  int64_t prompt_chunk = 256;       ///< tokens of the prompt read at once; does not change the text
  SamplingOptions sampling = {};
};

/// Reads the prompt (at least one token) and calls `emit` with each generated token; generation ends early where it
/// returns false. Draw number n depends on the seed and n alone.
void generate(LanguageModel& model, const std::vector<int64_t>& prompt, const GenerateOptions& options,
              const std::function<bool(int64_t token)>& emit);

}  // namespace smoe
