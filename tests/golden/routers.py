#!/usr/bin/env python3
"""Writes router_numbers.h: what routers and losses answer, worked out with NumPy from the papers' formulas.

    tests/golden/routers.py            # writes the header beside this file
    tests/golden/routers.py --check    # tells whether it is up to date

Weights are written dense, [T, E] row by row, with 0 where a token does not take an expert, so that the order of slots
does not matter.
"""

import itertools
import pathlib
import sys

import numpy as np

T, D, E = 7, 4, 6
HEADER = pathlib.Path(__file__).with_name("router_numbers.h")


def wave(count, step, start, scale):
    """The inputs of the tests: scale · sin(step · n + start), n = 0 … count − 1."""
    return scale * np.sin(step * np.arange(count) + start)


x = wave(T * D, 0.7, 0.5, 1.0).reshape(T, D)
w = wave(E * D, 1.3, 0.2, 1.5).reshape(E, D)
z = x @ w.T


def softmax(values):
    shifted = np.exp(values - values.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def top_k(scores, k):
    """bool [T, E]: the k largest of each row."""
    order = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, order, True, -1)
    return mask


def shares(weights):
    return weights / weights.sum(-1, keepdims=True)


def top_p(p, threshold):
    mask = np.zeros(p.shape, bool)
    for t, row in enumerate(p):
        total = 0.0
        for e in np.argsort(-row):
            mask[t, e] = True
            total += row[e]
            if total >= threshold and threshold < 1:
                break
    return p * mask


def expert_choice(p, c):
    count = int(np.ceil(T * c / E))
    return p * top_k(p.T, count).T


def balance(mask, p):
    share = mask.sum(0) / mask.sum()
    return E * float((share * p.mean(0)).sum())


def device_balance(mask, p, devices):
    share = E * mask.sum(0) / mask.sum()
    groups = np.arange(E).reshape(devices, -1)
    return float(sum(share[group].mean() * p.mean(0)[group].sum() for group in groups))


def bias_balanced(rate, updates, k):
    """The biases after so many updates on the same tokens, and then the weights; sigmoid scores."""
    scores, bias = sigmoid(z), np.zeros(E)
    for _ in range(updates):
        count = top_k(scores + bias, k).sum(0)
        bias += rate * np.sign(count.mean() - count)
    return bias, scores * top_k(scores + bias, k)


def philox(key, low, high):
    """Philox4x32-10 of Salmon et al. (SC 2011)."""
    counter = [low & 0xFFFFFFFF, low >> 32, high & 0xFFFFFFFF, high >> 32]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(p1 >> 32) ^ counter[1] ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ counter[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return counter


def hashed(key, tokens, k):
    draws = [[philox(key, token, e // 4)[e % 4] >> 8 for e in range(E)] for token in tokens]
    return top_k(np.array(draws), k) / k


def derived(key, name):
    """The key of the part `name` of a random stream."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    block = philox(key, value, 0x736D6F65)
    return block[1] << 32 | block[0]


def uniform_rows(name):
    """[T, E] numbers of the stream that the tests route with, key 5: row t has counter t."""
    key = derived(5, name)
    return np.array([[(philox(key, t, e // 4)[e % 4] >> 8) * 2.0**-24 for e in range(E)] for t in range(T)])


def drop_gate(rate, k):
    draw = uniform_rows("drop")
    logits = np.where(draw < rate, 0, z / (1 - rate))
    mask = np.zeros((T, E), bool)
    for t in range(T):
        # The largest logits first, among equal ones those of the largest draw.
        order = sorted(range(E), key=lambda e, t=t: (logits[t, e], draw[t, e]), reverse=True)
        mask[t, order[:k]] = True
    return shares(np.exp(logits) * mask)


def dense_to_sparse(progress, k):
    temperature = 2 + progress * (0.3 - 2)
    noise = -np.log(1e-10 - np.log(uniform_rows("gumbel") + 1e-10))
    p = softmax((z + noise) / temperature)
    return p * top_k(p, max(k, int((p > 0.001).sum(1).mean())))


def class_balance(mask, p, eta, pooled=()):
    """E · Σ η f P; the ids `pooled` have the mean of their f."""
    share = mask.sum(0) / mask.sum()
    if pooled:
        share[list(pooled)] = share[list(pooled)].mean()
    return E * float((eta * share * p.mean(0)).sum())


def adamoe(k):
    """Ids 0 to 2 are networks, 3 and 4 null experts, 5 a copy."""
    mask, taken = top_k(z, k), np.array([1, 1, 1, 0, 0, 1])
    sums = (np.exp(z) * mask * taken).sum(-1, keepdims=True)
    weights = np.exp(z) * mask * taken / np.where(sums == 0, 1, sums)
    return weights, class_balance(mask, softmax(z), 1, (3, 4))


def moe_pp(k):
    """Ids 0 to 2 are networks, 3 a null expert, 4 a copy, 5 a constant; τ = 0.5. Weights, softmax, loss and state."""
    below = wave(T * E, 0.9, 0.1, 1.0).reshape(T, E)
    logits = z + below @ wave(E * E, 1.1, 0.4, 0.8).reshape(E, E).T
    mask, taken = top_k(logits, k), np.array([1, 1, 1, 0, 1, 1])
    loss = class_balance(mask, softmax(logits), np.array([1, 1, 1, 0.5, 0.5, 0.5]))
    return shares(np.exp(logits) * mask * taken), softmax(logits) * mask * taken, loss, logits


def rmoe(k):
    """A state of width 3. Weights and the new state."""
    project, gate = wave(3 * D, 0.6, 0.1, 0.9).reshape(3, D), wave(E * 3, 1.7, 0.9, 2.0).reshape(E, 3)
    of_input, of_state = wave(27, 0.8, 0.3, 0.7).reshape(3, 3, 3), wave(27, 1.9, 0.2, 0.6).reshape(3, 3, 3)
    b, c = wave(3, 1, 0.5, 0.3), wave(3, 1, 2.5, 0.3)
    h = wave(T * 3, 0.9, 0.1, 0.5).reshape(T, 3)
    inputs = x @ project.T
    r = sigmoid(inputs @ of_input[0].T + h @ of_state[0].T)
    u = sigmoid(inputs @ of_input[1].T + h @ of_state[1].T)
    n = np.tanh(inputs @ of_input[2].T + b + r * (h @ of_state[2].T + c))
    state = (1 - u) * n + u * h
    logits = state @ gate.T
    return shares(np.exp(logits) * top_k(logits, k)), state


def smooth_step(t, gamma):
    middle = -2 * t**3 / gamma**3 + 3 * t / (2 * gamma) + 0.5
    return np.where(t <= -gamma / 2, 0, np.where(t >= gamma / 2, 1, middle))


def leaves(s):
    """Splits [T, R, E - 1] to the probabilities of leaves, each along its path from the root."""
    v = np.ones((T, s.shape[1], E))
    for leaf in range(E):
        node = E - 1 + leaf
        while node > 0:
            parent = (node - 1) // 2
            v[:, :, leaf] *= s[:, :, parent] if node == 2 * parent + 1 else 1 - s[:, :, parent]
            node = parent
    return v


def comet(gamma, order=None):
    """Two trees; `order` are permutations [2, E, E]. Weights and the leaves' entropy."""
    splits = wave(2 * (E - 1) * D, 0.9, 0.4, 0.8).reshape(-1, D)
    of_leaf = wave(2 * E * D, 1.1, 0.7, 1.2).reshape(-1, D)
    v = leaves(smooth_step((x @ splits.T + wave(2 * (E - 1), 1, 0.3, 0.2)).reshape(T, 2, E - 1), gamma))
    a = (x @ of_leaf.T + wave(2 * E, 1, 0.6, 0.5)).reshape(T, 2, E)
    with np.errstate(divide="ignore"):
        share = softmax((a + np.log(v)).reshape(T, -1)).reshape(T, 2, E)
    if order is not None:
        share = np.einsum("tre,ref->trf", share, order)
    entropy = float((-v * np.log(v + 1e-6)).sum((1, 2)).mean())
    return shares(share.sum(1)), entropy


def orders():
    """Scores of permutations, and the best ones among all 720, as matrices."""
    scores = wave(2 * E * E, 2.3, 0.1, 0.7).reshape(2, E, E)
    every = [list(order) for order in itertools.permutations(range(E))]
    best = [max(every, key=lambda order, s=s: s[range(E), order].sum()) for s in scores]
    return scores, np.stack([np.eye(E)[order] for order in best])


def sinkhorn(scores, temperature, rounds):
    soft = np.exp(scores / temperature)
    for _ in range(rounds):
        soft = soft / soft.sum(2, keepdims=True)
        soft = soft / soft.sum(1, keepdims=True)
    return soft


def evomoe(temperature, k, threshold, noisy_weight=False):
    """Weights and loss; without a threshold the k largest."""
    noise = -np.log(1e-10 - np.log(uniform_rows("gumbel") + 1e-10))
    q, p = softmax((z + noise) / temperature), softmax(z)
    mask = top_k(q, k) | (q > threshold)
    given = (q if noisy_weight else p) * mask
    return given, E * float((mask.sum(0) / mask.sum() * given.mean(0)).sum())


def post_moe(k):
    """Without renormalising; token t is of family t − 1, where −1 is none."""
    p = softmax(z)
    mask = top_k(p, k)
    for t in range(T):
        own = t - 1
        if own >= 0 and not mask[t, own]:
            mask[t, min(np.flatnonzero(mask[t]), key=lambda e, t=t: p[t, e])] = False
            mask[t, own] = True
    return p * mask


def permutation_entropy(soft):
    return float((-soft * np.log(soft + 1e-6)).sum((1, 2)).mean())


def numbers():
    p, s = softmax(z), sigmoid(z)
    two, three = top_k(z, 2), top_k(z, 3)
    biases, biased = bias_balanced(0.1, 3, 2)
    first = top_k(z, 1)
    return {
        "SelectedSoftmax2": shares(np.exp(z) * two),
        "Softmax2": p * two,
        "SoftmaxRenormalized3": shares(p * three),
        "Sigmoid2": s * two,
        "SigmoidRenormalized2": shares(s * two),
        "Biases": biases,
        "Biased": biased,
        "Switch": p * first,
        "Gshard": shares(p * two),
        "GshardBalance": np.array([E * float((first.mean(0) * p.mean(0)).sum())]),
        "TopP50": top_p(p, 0.5),
        "TopP80": top_p(p, 0.8),
        "TopP100": top_p(p, 1),
        "ExpertChoice1": expert_choice(p, 1),
        "ExpertChoice2": expert_choice(p, 2),
        "DropGate2": drop_gate(0.5, 2),
        "DropGate5": drop_gate(0.5, 5),
        "DenseToSparseStart": dense_to_sparse(0, 2),
        "DenseToSparseMiddle": dense_to_sparse(0.5, 2),
        "DenseToSparseEnd": dense_to_sparse(1, 1),
        "Adamoe2": adamoe(2)[0],
        "Adamoe3Balance": np.array([adamoe(3)[1]]),
        "Adamoe4": adamoe(4)[0],
        "MoePp2": moe_pp(2)[0],
        "MoePp2Softmax": moe_pp(2)[1],
        "MoePp2Balance": np.array([moe_pp(2)[2]]),
        "MoePpState": moe_pp(2)[3],
        "Rmoe2": rmoe(2)[0],
        "RmoeState": rmoe(2)[1],
        "Comet": comet(1)[0],
        "CometSaturation": np.array([comet(1)[1]]),
        "CometPermuted": comet(1, orders()[1])[0],
        "CometSoft": comet(1, sinkhorn(orders()[0], 0.5, 20))[0],
        "CometSoftEntropy": np.array([permutation_entropy(sinkhorn(orders()[0], 0.5, 20))]),
        "EvomoeStart": evomoe(1, 1, 0.02)[0],
        "EvomoeStartBalance": np.array([evomoe(1, 1, 0.02)[1]]),
        "EvomoeLinear": evomoe(0.75, 1, 0.02)[0],
        "EvomoeExponential": evomoe(0.5**0.5, 2, 0.02, noisy_weight=True)[0],
        "EvomoeHard": evomoe(0.5, 1, 1)[0],
        "EvomoeHardBalance": np.array([evomoe(0.5, 1, 1)[1]]),
        "PostMoe2": post_moe(2),
        "Hash2": hashed(0x0000ABCDEF123456, range(T), 2),
        "Balance2": np.array([balance(two, p)]),
        "DeviceBalance3": np.array([device_balance(two, p, 3)]),
        "Z": np.array([float((np.log(np.exp(z).sum(-1)) ** 2).mean())]),
        "Entropy": np.array([float(-(p * np.log(p)).sum(-1).mean())]),
    }


def header():
    lines = ["// Written by tests/golden/routers.py: do not edit.", "#pragma once", "", "#include <cstdint>", "",
             "// clang-format off",
             "namespace smoe::golden {", "", f"inline constexpr int64_t kTokens = {T}, kWidth = {D}, kExperts = {E};"]
    for name, values in numbers().items():
        lines += ["", f"inline constexpr double k{name}[] = {{"]
        flat = [f"{value:.17g}" for value in np.asarray(values, float).ravel()]
        lines += ["    " + ", ".join(flat[i : i + E]) + "," for i in range(0, len(flat), E)]
        lines += ["};"]
    return "\n".join(lines + ["", "}  // namespace smoe::golden", "// clang-format on", ""])


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        # The last digits may differ with another libm.
        def words(text):
            return text.replace("{", " ").replace(",", " ").split()

        old, new = words(HEADER.read_text()), words(header())
        same = len(old) == len(new) and all(
            a == b or abs(float(a) - float(b)) < 1e-12 for a, b in zip(old, new, strict=True))
        sys.exit(0 if same else f"{HEADER} is out of date: run {__file__}")
    HEADER.write_text(header())
