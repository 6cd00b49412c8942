#!/usr/bin/env python3
"""Writes router_numbers.h: what routers and losses answer, worked out with NumPy from the papers' formulas.

    tests/golden/routers.py            # writes the header beside this file
    tests/golden/routers.py --check    # tells whether it is up to date

Weights are written dense, [T, E] row by row, with 0 where a token does not take an expert, so that the order of slots
does not matter.
"""

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
        "Hash2": hashed(0x0000ABCDEF123456, range(T), 2),
        "Balance2": np.array([balance(two, p)]),
        "Z": np.array([float((np.log(np.exp(z).sum(-1)) ** 2).mean())]),
        "Entropy": np.array([float(-(p * np.log(p)).sum(-1).mean())]),
    }


def header():
    lines = ["// Written by tests/golden/routers.py: do not edit.", "#pragma once", "", "// clang-format off",
             "namespace smoe::golden {", "", f"inline constexpr int kTokens = {T}, kWidth = {D}, kExperts = {E};"]
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
