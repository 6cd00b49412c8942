"""The layer of experts in PyTorch, written in each of the ways that are in use, and with smoe.

Each is a function of (weights, x [T, D], expert [T, K], weight [T, K]) → y [T, D]; `weights` is an Experts. Under
autocast the products are in its dtype; grouped ones, which autocast leaves alone, are cast for here.
"""

import torch
import torch.nn.functional as F


class Experts(torch.nn.Module):
    """w1 [E, H, D] and w2 [E, D, H] with biases and ReLU, as in SMoE-Dropout; or, as in Mixtral, w1 [E, 2 H, D], SwiGLU
    and no biases. Dropout between the two, in training."""

    def __init__(self, E, D, H, activation, dtype=torch.float32, dropout=0.0):
        super().__init__()
        self.activation, self.num_experts, self.dropout = activation, E, dropout
        self.gated = activation == "swiglu"

        def make(*shape, std):
            # Numbers that bf16 can hold, so that every dtype computes with the same ones.
            return torch.nn.Parameter((torch.randn(shape) * std).bfloat16().to(dtype))

        self.w1, self.w2 = make(E, 2 * H if self.gated else H, D, std=D**-0.5), make(E, D, H, std=H**-0.5)
        self.b1 = None if self.gated else make(E, H, std=0.1)
        self.b2 = None if self.gated else make(E, D, std=0.1)

    def activate(self, hidden):
        if self.gated:
            gate, up = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * up
        else:
            hidden = F.relu(hidden)
        return F.dropout(hidden, self.dropout, self.training) if self.dropout else hidden

    def of_each(self, stacked):
        return [None] * self.num_experts if stacked is None else stacked.unbind(0)


def computed_in(tensor):
    """The tensor in autocast's dtype, where that is on."""
    device = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor


def smoe(weights, x, expert, weight):
    return torch.ops.smoe.moe_mlp(x, expert, weight, weights.w1, weights.b1, weights.w2, weights.b2, weights.activation)


def loop(weights, x, expert, weight, indexed=False):
    """Expert after expert: gather its tokens, two products, scatter.

    Where the parameter is `indexed`, as transformers does, each expert's gradient is as large as all of them are.
    """
    y = torch.zeros(x.shape, dtype=torch.promote_types(computed_in(x).dtype, weight.dtype), device=x.device)
    x = computed_in(x)
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


def by_expert(expert, experts):
    """The expert of each slot; the slots' order by expert; how many each expert has, without waiting for a GPU."""
    flat = expert.flatten()
    count = torch.zeros(experts, dtype=torch.long, device=flat.device).scatter_add_(0, flat, torch.ones_like(flat))
    return flat, flat.argsort(stable=True), count


def to_tokens(rows, order, expert):
    """The sum over each token's slots of rows that stand in `order`."""
    T, K = expert.shape
    place = torch.empty_like(order)
    place[order] = torch.arange(order.numel(), device=order.device)
    return rows.index_select(0, place).view(T, K, -1).sum(dim=1)


def sorted_slices(weights, x, expert, weight):
    """Rows gathered once in the order of experts, a product for each slice."""
    _, order, count = by_expert(expert, weights.num_experts)
    slices = computed_in(x).index_select(0, order // expert.size(1)).split(count.tolist())
    parts = zip(slices, *(weights.of_each(w) for w in (weights.w1, weights.b1, weights.w2, weights.b2)))
    rows = torch.cat([F.linear(weights.activate(F.linear(part, w1, b1)), w2, b2) for part, w1, b1, w2, b2 in parts])
    return to_tokens(rows * weight.flatten()[order, None], order, expert)


def grouped_mm(weights, x, expert, weight):
    """LibTorch's grouped product over rows in the order of experts."""
    flat, order, count = by_expert(expert, weights.num_experts)
    ends, of_row = count.cumsum(0).int(), flat[order]

    def product(rows, w, b):
        out = F.grouped_mm(rows, computed_in(w).transpose(1, 2), offs=ends)
        return out if b is None else out + computed_in(b).index_select(0, of_row)

    rows = computed_in(x).index_select(0, order // expert.size(1))
    rows = product(weights.activate(product(rows, weights.w1, weights.b1)), weights.w2, weights.b2)
    return to_tokens(rows * weight.flatten()[order, None], order, expert)


def all_experts(weights, x, expert, weight):
    """No gathering: every expert computes every token, and those that were not chosen count nothing."""
    E, D, H = weights.w2.shape
    share = torch.zeros(x.size(0), E, dtype=weight.dtype, device=x.device).scatter(1, expert, weight)
    hidden = F.linear(x, weights.w1.flatten(0, 1), None if weights.b1 is None else weights.b1.flatten())
    hidden = weights.activate(hidden.view(x.size(0), E, -1))
    hidden = (hidden * share.to(hidden.dtype)[:, :, None]).view(x.size(0), E * H)
    y = F.linear(hidden, weights.w2.transpose(0, 1).reshape(D, E * H))
    return y if weights.b2 is None else y + share.to(y.dtype) @ computed_in(weights.b2)


def dense_network(weights, x):
    """The feed-forward network that Experts of one expert are."""
    w1, b1, w2, b2 = (weights.of_each(w)[0] for w in (weights.w1, weights.b1, weights.w2, weights.b2))
    return F.linear(weights.activate(F.linear(x, w1, b1)), w2, b2)


# What PyTorch offers.
IMPLEMENTATIONS = {"loop": loop, "sorted slices": sorted_slices, "grouped_mm": grouped_mm, "all experts": all_experts}
# Those with shapes that follow from the routing's numbers.
AS_LONG_AS_ROUTED = ("loop", "sorted slices", "grouped_mm")
