// Routing: a router's answer, and what it is asked with.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "smoe/tensor/random_stream.h"

namespace smoe {

/// How many experts each token takes: one number for all, or one per token.
struct ActiveK {
  int64_t uniform = 0;   ///< used where per_token is undefined
  at::Tensor per_token;  ///< int32 [T], each in [0, E]

  ActiveK() = default;
  ActiveK(int64_t k) : uniform(k) {}  // NOLINT: a plain number is the common case
  explicit ActiveK(at::Tensor k) : per_token(std::move(k)) {}

  /// The largest k of any token: K of the routing.
  int64_t max() const;
};

/// The scores before any normalisation, [T, E].
struct Logits {
  at::Tensor value;
};

/// Scores that are non-negative and sum to one over the experts, [T, E].
struct Probabilities {
  at::Tensor value;
};

/// A differentiable number that a part adds to the objective, times `weight`.
struct Term {
  at::Tensor value;  ///< []
  double weight = 0;
};

/// Which experts each token goes to, with what weight. A token's experts are distinct; −1 with weight 0 is an empty slot
/// and may stand anywhere; an id ≥ 0 is computed even where its weight is 0.
struct Routing {
  at::Tensor expert;            ///< int32 [T, K]
  at::Tensor weight;            ///< [T, K], differentiable where the router is
  Logits logits;                ///< undefined where the kind has none
  Probabilities probabilities;  ///< undefined where the kind has none
  at::Tensor state;             ///< per-token state for the MoE layer above, [T, …]; undefined where the kind has none
  std::map<std::string, Term> terms = {};  ///< losses of the kind's own, of valid tokens alone, by name
};

/// What is known of the tokens of a batch beside their vectors; all tensors [T], undefined where not known.
struct BatchView {
  at::Tensor token;                        ///< int64 token ids
  at::Tensor position;                     ///< int64 positions in their sequences
  at::Tensor sequence;                     ///< int64 sequence ids
  at::Tensor valid;                        ///< bool; false is padding and counts in no statistic
  std::map<std::string, at::Tensor> tags;  ///< int64 family, task, timestep, class …; −1 where a token has none
};

/// The tag that says in training which family's language a token is of: the number of the family, and of its expert.
inline constexpr const char* kFamilyTag = "family";

/// What a router is asked with.
struct RouteInput {
  at::Tensor x;  ///< [T, D]
  BatchView batch;
  at::Tensor state;                 ///< Routing::state of the MoE layer below, with its gradient
  ActiveK k;                        ///< for kinds whose dial is k
  std::optional<double> dial = {};  ///< for kinds with another dial; unset: what the kind's settings say
  bool training = false;
  int64_t step = 0;        ///< optimizer updates made so far
  double progress = 0;     ///< step over the steps of the whole run, in [0, 1]
  RandomStream random{0};  ///< this layer's, at this step
};

}  // namespace smoe
