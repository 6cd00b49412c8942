// Permutations that are learned: soft ones by Sinkhorn's normalisation, hard ones by assignment.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace smoe {

/// exp(logits) [R, n, n] with its rows and then its columns divided by their sums, `rounds` times, computed in logarithms:
/// columns sum to 1, rows nearly so (Mena et al., "Learning Latent Permutations with Gumbel-Sinkhorn Networks", ICLR 2018).
at::Tensor sinkhorn(const at::Tensor& logits, int64_t rounds);

/// The permutation p with the largest Σ_i scores[i, p_i], by the Hungarian method in O(n³); it is the limit of
/// sinkhorn(scores / τ) for τ → 0 where it is the only one. scores [n, n] on any device; a NaN counts as 0, and what is
/// past ±1e30 as that.
std::vector<int64_t> best_assignment(const at::Tensor& scores);

}  // namespace smoe
