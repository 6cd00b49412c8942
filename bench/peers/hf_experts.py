"""transformers' own ways of computing its experts, as functions like those of experts.py."""

import torch.nn.functional as F
from transformers.integrations.moe import batched_mm_experts_forward, grouped_mm_experts_forward
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

import experts


class AsTransformersNames:
    """Weights under the names that transformers' functions look for, with what its decorator of classes sets."""

    is_transposed = has_post_expert_norm = _is_expert_parallel = False

    def __init__(self, weights):
        self.has_gate, self.has_bias, self.num_experts = weights.gated, weights.b1 is not None, weights.num_experts
        self.gate_up_proj = self.up_proj = weights.w1
        self.up_proj_bias, self.down_proj, self.down_proj_bias = weights.b1, weights.w2, weights.b2
        self.act_fn = F.silu if weights.gated else F.relu
        self._apply_gate = weights.activate


def with_names(function):
    return lambda weights, x, expert, weight: function(AsTransformersNames(weights), x, expert, weight)


def eager(weights, x, expert, weight):
    """Its loop, where it has one, which is for gated experts without biases; for others the same loop from here."""
    if weights.gated:
        return MixtralExperts.forward.__wrapped__(AsTransformersNames(weights), x, expert, weight)
    return experts.loop(weights, x, expert, weight, indexed=True)


IMPLEMENTATIONS = {
    "transformers eager": eager,
    "transformers grouped_mm": with_names(grouped_mm_experts_forward),
    "transformers batched_mm": with_names(batched_mm_experts_forward),
}
