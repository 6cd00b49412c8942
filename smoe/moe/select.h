// The steps that routers are composed of: score → transform → select → weigh.
#pragma once

#include "smoe/moe/routing.h"

namespace smoe {

/// The selected experts and their scores.
struct Selection {
  at::Tensor expert;  ///< int32 [T, K], −1 for an empty slot
  at::Tensor score;   ///< [T, K], differentiable; arbitrary in an empty slot
};

/// Select: the k experts of the largest scores, in falling order; scores [T, E]. With k per token, K is the largest and a
/// token's slots past its own k are empty. Throws UserError where a uniform k is outside [1, E] or a token's outside [0, E].
Selection select_top_k(const at::Tensor& scores, const ActiveK& k);

/// Weigh: softmax over a token's selected scores only (top-k first, softmax after), so that weights sum to 1; a token
/// with no expert has all weights 0. [T, K]
at::Tensor softmax_over_selected(const Selection& selection);

}  // namespace smoe
