"""Transformer-XL with mixtures in place of its feed-forward blocks, in plain PyTorch: the model of smoe's recipes.

Written from the papers (Dai et al., ACL 2019; Chen et al., ICLR 2023) for speed in PyTorch. The parameters have the
names that docs/formats.md gives them, so that a checkpoint of smoe loads. Shapes: B batch, S segment, M memory, L = M + S,
D width, N heads, P head width, E experts, K experts of a token, V vocabulary.
"""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import nn

import experts


def normal(*shape):
    return nn.Parameter(torch.randn(shape) * 0.02)


def norm_parameters(width):
    return nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))


class Attention(nn.Module):
    def __init__(self, width, heads, head_width):
        super().__init__()
        self.heads, inner = heads, heads * head_width
        self.qkv, self.position, self.output = normal(3 * inner, width), normal(inner, width), normal(width, inner)

    def forward(self, x, memory, positions, content_bias, position_bias, hidden):
        """x [B, S, D], memory [B, M, D], positions [L, D], hidden bool [S, L] → [B, S, D]."""
        (B, S, _), N = x.shape, self.heads
        inner = self.position.size(0)
        context = torch.cat([memory, x], dim=1)
        L, P = context.size(1), inner // N
        of_query, of_key_value = self.qkv.split([inner, 2 * inner])
        # The scale goes into the query, the smallest of the tensors it could go into.
        query = F.linear(x, of_query).view(B, S, N, P)
        key, value = F.linear(context, of_key_value).view(B, L, 2, N, P).unbind(2)
        place = F.linear(positions, self.position).view(L, N, P).permute(1, 2, 0)
        with_content = ((query + content_bias) * P**-0.5).permute(2, 0, 1, 3)  # [N, B, S, P]
        with_position = ((query + position_bias) * P**-0.5).permute(2, 0, 1, 3).reshape(N, B * S, P)
        score = shift(torch.bmm(with_position, place).view(N * B, S, L))
        if not torch.is_grad_enabled():
            # The fused kernel takes a bias that needs no gradient. The query is scaled already.
            bias = score.view(N, B, S, L).transpose(0, 1).masked_fill(hidden, -math.inf)
            mixed = F.scaled_dot_product_attention(with_content.transpose(0, 1).to(bias.dtype), key.transpose(1, 2),
                                                   value.transpose(1, 2), attn_mask=bias, scale=1.0)
            return F.linear(mixed.transpose(1, 2).reshape(B, S, inner), self.output)
        key = key.permute(2, 0, 3, 1).reshape(N * B, P, L)
        value = value.permute(2, 0, 1, 3).reshape(N * B, L, P)
        score = torch.baddbmm(score, with_content.reshape(N * B, S, P).to(score.dtype), key)
        mixed = torch.bmm(score.masked_fill(hidden, -math.inf).softmax(dim=-1), value)
        return F.linear(mixed.view(N, B, S, P).permute(1, 2, 0, 3).reshape(B, S, inner), self.output)


def shift(x):
    """x [G, S, L], row i moved left by S − 1 − i, as a view of a padded tensor; what comes in from the right is junk."""
    G, S, L = x.shape
    return F.pad(x, (1, 0)).view(G, L + 1, S)[:, 1:].reshape(G, S, L)


class Router(nn.Module):
    """Frozen: the k largest logits, softmax over these; in fp32 as in smoe, so that both choose the same experts."""

    def __init__(self, width, count):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, width) * 0.02, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(count), requires_grad=False)

    def forward(self, x, k):
        with torch.autocast(x.device.type, enabled=False):
            logits, expert = F.linear(x.float(), self.weight, self.bias).topk(k, dim=-1)
            return expert, logits.softmax(dim=-1)


class Mixture(nn.Module):
    def __init__(self, model, moe, compute):
        super().__init__()
        self.router = Router(model["width"], moe["experts"])
        group = experts.Experts(moe["experts"], model["width"], moe["expert_width"], moe["activation"],
                                dropout=model["dropout"])
        self.experts = nn.ModuleList([group])
        self.compute = compute

    def forward(self, x, k):
        flat = x.flatten(0, 1)
        return self.compute(self.experts[0], flat, *self.router(flat, k)).view(x.shape)


class Block(nn.Module):
    def __init__(self, model, moe, compute):
        super().__init__()
        width = model["width"]
        self.attention = Attention(width, model["heads"], model["head_width"])
        self.attention_norm_gain, self.attention_norm_bias = norm_parameters(width)
        self.moe = Mixture(model, moe, compute)
        self.output_norm_gain, self.output_norm_bias = norm_parameters(width)
        self.dropout, self.width = model["dropout"], width

    def forward(self, x, k, *attention):
        attended = F.dropout(self.attention(x, *attention), self.dropout, self.training)
        x = F.layer_norm(x + attended, [self.width], self.attention_norm_gain, self.attention_norm_bias)
        fed = F.dropout(self.moe(x, k), self.dropout, self.training)
        return F.layer_norm(x + fed, [self.width], self.output_norm_gain, self.output_norm_bias)


class TransformerXl(nn.Module):
    """`model` and `moe` are the tables of a recipe; `compute` is one of experts.IMPLEMENTATIONS' functions."""

    def __init__(self, model, moe, vocabulary, compute):
        super().__init__()
        width, heads, head_width = model["width"], model["heads"], model["head_width"]
        self.embedding, self.output_bias = normal(vocabulary, width), nn.Parameter(torch.zeros(vocabulary))
        self.content_bias, self.position_bias = normal(heads, head_width), normal(heads, head_width)
        self.layers = nn.ModuleList([Block(model, moe, compute) for _ in range(model["layers"])])
        self.dropout, self.width, self.tables = model["dropout"], width, {}

    def device(self):
        return self.embedding.device

    def table(self, S, L):
        """Positions [L, D], row t for the distance L − 1 − t; which keys each query must not see, [S, L]."""
        if (S, L) not in self.tables:
            frequency = 10000.0 ** (torch.arange(0, self.width, 2, dtype=torch.float64) / -self.width)
            angle = torch.arange(L - 1, -1, -1, dtype=torch.float64)[:, None] * frequency
            hidden = torch.arange(L) > torch.arange(L - S, L)[:, None]
            table = torch.cat([angle.sin(), angle.cos()], dim=1).float()
            self.tables[S, L] = table.to(self.device()), hidden.to(self.device())
        return self.tables[S, L]

    def forward(self, tokens, target, memory, k, memory_length):
        """tokens, target [B, S], memory a list of [B, M, D] → the mean loss in nats, the memory of the next segment."""
        S = tokens.size(1)
        positions, hidden = self.table(S, memory[0].size(1) + S)
        positions = F.dropout(positions, self.dropout, self.training)
        x = F.dropout(F.embedding(tokens, self.embedding) * self.width**0.5, self.dropout, self.training)
        remembered = []
        for layer, past in zip(self.layers, memory):
            both = torch.cat([past, x.detach()], dim=1)
            remembered.append(both[:, max(0, both.size(1) - memory_length):])
            x = layer(x, k, past, positions, self.content_bias, self.position_bias, hidden)
        x = F.dropout(x, self.dropout, self.training)
        logits = F.linear(x, self.embedding, self.output_bias)
        return F.cross_entropy(logits.flatten(0, 1).float(), target.flatten()), remembered

    def empty_memory(self, batch):
        return [torch.zeros(batch, 0, self.width, device=self.device()) for _ in self.layers]


class Trained:
    """A model with its optimizer, as a recipe says; `precision` is train.dtype, autocast for bf16."""

    def __init__(self, recipe, vocabulary, compute, compiled=False):
        self.recipe = recipe
        self.device = recipe["train"]["device"]
        self.model = TransformerXl(recipe["model"], recipe["moe"], vocabulary, compute).to(self.device)
        self.run = torch.compile(self.model, dynamic=False) if compiled else self.model
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        o = recipe["optimizer"]
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[o["kind"]]
        self.optimizer = kind(self.parameters, lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["epsilon"],
                              weight_decay=o["weight_decay"], fused=True)

    def autocast(self):
        if self.recipe["train"]["dtype"] == "bf16":
            return torch.autocast(self.device, torch.bfloat16)
        return contextlib.nullcontext()

    def step(self, tokens, target, memory, k, lr=None):
        """One update; the loss before it, the norm of the gradient before clipping, and the next memory."""
        self.model.train()
        if lr is not None:
            self.optimizer.param_groups[0]["lr"] = lr
        with self.autocast():
            loss, memory = self.run(tokens, target, memory, k, self.recipe["train"]["memory"])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe["optimizer"]["clip_norm"], foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item(), norm.item(), memory

    def evaluate(self, text, k, batch, segment, memory_length):
        """The mean loss over a text, read as `batch` streams that begin without memory; how many tokens it predicts."""
        self.model.eval()
        length = text.numel() // batch
        streams = text[:length * batch].view(batch, length).to(self.device)
        memory, total = self.model.empty_memory(batch), 0.0
        with torch.no_grad(), self.autocast():
            for begin in range(0, length - 1, segment):
                end = min(begin + segment, length - 1)
                loss, memory = self.run(streams[:, begin:end], streams[:, begin + 1:end + 1], memory, k, memory_length)
                total += loss.item() * (end - begin)
        return total / (length - 1), batch * (length - 1)
