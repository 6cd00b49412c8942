"""The layer of experts in PyTorch, written in each of the ways that are in use, and with smoe.

Each is a function of (weights, x [T, D], expert [T, K], weight [T, K]) → y [T, D]: with ReLU and biases, as in
SMoE-Dropout, or with SwiGLU and without, as in Mixtral. `weights` is an Experts.
"""

import torch
import torch.nn.functional as F
import transformers.integrations.moe as hf
from transformers.models.mixtral.modeling_mixtral import MixtralExperts


class Experts(torch.nn.Module):
    """w1 [E, H, D] or [E, 2 H, D], w2 [E, D, H] and their biases, under transformers' names too, for its functions."""

    def __init__(self, E, D, H, activation, dtype):
        super().__init__()
        gated = activation == "swiglu"

        def make(*shape, std):
            # Numbers that bf16 can hold, so that every dtype computes with the same ones.
            return torch.nn.Parameter((torch.randn(shape) * std).bfloat16().to(dtype))

        self.w1, self.w2 = make(E, 2 * H if gated else H, D, std=D**-0.5), make(E, D, H, std=H**-0.5)
        self.b1 = None if gated else make(E, H, std=0.1)
        self.b2 = None if gated else make(E, D, std=0.1)
        self.activation, self.num_experts = activation, E
        # What transformers' decorator of expert classes sets.
        self.has_gate, self.has_bias, self.is_transposed = gated, not gated, False
        self.has_post_expert_norm = self._is_expert_parallel = False
        self.act_fn = F.silu if gated else F.relu
        self.gate_up_proj = self.up_proj = self.w1
        self.up_proj_bias, self.down_proj, self.down_proj_bias = self.b1, self.w2, self.b2

    def _apply_gate(self, both):
        gate, up = both.chunk(2, dim=-1)
        return self.act_fn(gate) * up

    def activate(self, hidden):
        return self._apply_gate(hidden) if self.has_gate else self.act_fn(hidden)

    def of_each(self, stacked):
        return [None] * self.num_experts if stacked is None else stacked.unbind(0)


def smoe(weights, x, expert, weight):
    return torch.ops.smoe.moe_mlp(x, expert, weight, weights.w1, weights.b1, weights.w2, weights.b2, weights.activation)


def loop(weights, x, expert, weight, indexed=False):
    """Expert after expert: gather its tokens, two products, scatter.

    Where the parameter is `indexed`, as transformers does, each expert's gradient is as large as all of them are.
    """
    y = torch.zeros_like(x)
    with torch.no_grad():
        chosen = F.one_hot(expert, weights.num_experts).permute(2, 1, 0)
        hit = chosen.sum(dim=(1, 2)).nonzero().flatten().tolist()
    w1, w2 = (weights.w1, weights.w2) if indexed else (weights.w1.unbind(0), weights.w2.unbind(0))
    b1, b2 = weights.of_each(weights.b1), weights.of_each(weights.b2)
    for e in hit:
        slot, token = torch.where(chosen[e])
        hidden = weights.activate(F.linear(x[token], w1[e], b1[e]))
        y.index_add_(0, token, F.linear(hidden, w2[e], b2[e]) * weight[token, slot, None])
    return y


def transformers_loop(weights, x, expert, weight):
    """What transformers calls eager: its own function where it has one, which is for gated experts."""
    if weights.has_gate:
        return MixtralExperts.forward.__wrapped__(weights, x, expert, weight)
    return loop(weights, x, expert, weight, indexed=True)


def by_expert(expert, experts):
    """The slots sorted by expert: their order, and how many each has."""
    flat = expert.flatten()
    order = flat.argsort(stable=True)
    return flat, order, torch.bincount(flat, minlength=experts)


def to_tokens(rows, order, expert):
    """The sum over each token's slots of rows that stand in `order`."""
    T, K = expert.shape
    place = torch.empty_like(order)
    place[order] = torch.arange(order.numel())
    return rows.index_select(0, place).view(T, K, -1).sum(dim=1)


def sorted_slices(weights, x, expert, weight):
    """Rows gathered once in the order of experts, a product for each slice."""
    _, order, count = by_expert(expert, weights.num_experts)
    slices = x.index_select(0, order // expert.size(1)).split(count.tolist())
    parts = zip(slices, *(weights.of_each(w) for w in (weights.w1, weights.b1, weights.w2, weights.b2)))
    rows = torch.cat([F.linear(weights.activate(F.linear(part, w1, b1)), w2, b2) for part, w1, b1, w2, b2 in parts])
    return to_tokens(rows * weight.flatten()[order, None], order, expert)


def grouped_mm(weights, x, expert, weight):
    """LibTorch's grouped product over rows in the order of experts."""
    flat, order, count = by_expert(expert, weights.num_experts)
    ends, of_row = count.cumsum(0).int(), flat[order]
    hidden = F.grouped_mm(x.index_select(0, order // expert.size(1)), weights.w1.transpose(1, 2), offs=ends)
    if weights.b1 is not None:
        hidden = hidden + weights.b1.index_select(0, of_row)
    rows = F.grouped_mm(weights.activate(hidden), weights.w2.transpose(1, 2), offs=ends)
    if weights.b2 is not None:
        rows = rows + weights.b2.index_select(0, of_row)
    return to_tokens(rows * weight.flatten()[order, None], order, expert)


def dense_network(weights, x):
    """The feed-forward network that Experts of one expert are."""
    w1, b1, w2, b2 = (weights.of_each(w)[0] for w in (weights.w1, weights.b1, weights.w2, weights.b2))
    return F.linear(weights.activate(F.linear(x, w1, b1)), w2, b2)


IMPLEMENTATIONS = {
    "smoe": smoe,
    "loop": loop,
    "sorted slices": sorted_slices,
    "grouped_mm": grouped_mm,
    "transformers eager": transformers_loop,
    "transformers grouped_mm": hf.grouped_mm_experts_forward,
    "transformers batched_mm": hf.batched_mm_experts_forward,
}
OURS, DENSE = "smoe", "dense, equal FLOPs"
