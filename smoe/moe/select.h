// The steps that routers are composed of: score → transform → select → weigh. Scores stay logits until a transform makes
// probabilities of them, and the two are different types, so that no softmax is applied twice.
#pragma once

#include "smoe/moe/routing.h"

namespace smoe {

/// Transform: softmax over all experts.
Probabilities softmax_over_all(const Logits& logits);

/// The selected experts and their scores.
struct Selection {
  at::Tensor expert;  ///< int32 [T, K], −1 for an empty slot
  at::Tensor score;   ///< [T, K], differentiable; arbitrary in an empty slot
};

/// Which of equal scores come first: whichever, which is fastest, or those of lower ids.
enum class Ties { kAny, kLowerId };

/// Select: the k experts of the largest scores, in falling order; scores [T, E]. With k per token, K is the largest and a
/// token's slots past its own k are empty. Throws UserError where a uniform k is outside [1, E] or a token's outside [0, E].
Selection select_top_k(const at::Tensor& scores, const ActiveK& k, Ties ties = Ties::kAny);

/// Select: the fewest experts, in falling order of probability, whose probabilities reach `threshold`, 0 < threshold ≤ 1;
/// at 1 all of them, whatever rounding makes of the sum. K is the most that any token takes (Huang et al., ACL 2024).
Selection select_top_p(const Probabilities& probabilities, double threshold);

/// Select: the experts whose scores are above `threshold`, in falling order; scores [T, E]. K is the most that any token
/// takes, at least 1; a token may take none. A NaN is above everything, so that it is not lost.
Selection select_above(const at::Tensor& scores, double threshold);

/// The scores [T, E] of experts that were selected by something else, expert int32 [T, K]. [T, K]
Selection with_scores(const at::Tensor& expert, const at::Tensor& scores);

/// Weigh: the scores as they are, 0 in an empty slot. [T, K]
at::Tensor weigh_by_score(const Selection& selection);

/// Weigh: the scores over their sum; a token with no expert has all weights 0. [T, K]
at::Tensor weigh_by_share(const Selection& selection);

/// Weigh: 1/n each, n the number of a token's experts; expert [T, K] → [T, K] with the dtype of `like`.
at::Tensor weigh_equally(const at::Tensor& expert, const at::Tensor& like);

/// Weigh: softmax over a token's selected scores only (top-k first, softmax after), so that weights sum to 1; a token
/// with no expert has all weights 0. [T, K]
at::Tensor softmax_over_selected(const Selection& selection);

}  // namespace smoe
