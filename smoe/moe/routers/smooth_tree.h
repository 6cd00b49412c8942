// Binary trees whose branches are taken by degrees, and wholly past a certain width (Hazimeh et al., "The Tree Ensemble
// Layer", ICML 2020).
#pragma once

#include <ATen/core/Tensor.h>

namespace smoe {

/// S(t): 0 for t ≤ −γ/2, 1 for t ≥ γ/2, −2 t³/γ³ + 3 t/(2γ) + 1/2 between them; its derivative is continuous. γ > 0.
at::Tensor smooth_step(const at::Tensor& t, double gamma);

/// The probability of each leaf of a tree with n leaves, of which nodes 0 … n − 2 are splits and node i has the children
/// 2i + 1 and 2i + 2; leaf j is node n − 1 + j. `left` [T, R, n − 1], the share of each split of R trees that goes to its
/// first child; → [T, R, n], which sums to 1.
at::Tensor leaf_probabilities(const at::Tensor& left);

}  // namespace smoe
