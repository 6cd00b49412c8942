#!/usr/bin/env python3
"""Whether the PyTorch model does the work that smoe does: the same losses from the same weights on the same text.

smoe trains three steps without dropout and keeps its first checkpoint. The PyTorch model goes on from there: the losses
of the next two steps must be smoe's (the second has gone through gradients, clipping and Adam), so must be the norms of
their gradients, and the losses that smoe eval finds with the weights of the first.

step.py runs it, in a process of its own, whose memory ends with it: what check() takes is in its argument, a JSON object,
what check() gives is printed as JSON.
"""

import json
import os
import pathlib
import random
import subprocess
import sys

import common  # before torch
import torch
from safetensors.torch import load_file

import experts
from transformer_xl import Trained

STEPS = 3
# |difference| of losses in nats, and of norms in parts of the norm. bf16 is compared with what fp32 finds.
TOLERANCE = {"fp32": (2e-5, 1e-3), "bf16": (2e-2, 5e-2)}


def text(size, seed):
    """Bytes of which low ones are more frequent, so that a step learns something."""
    draw = random.Random(seed)
    return bytes(int(256 * draw.random() ** 3) for _ in range(size))


class Expected:
    """What smoe found: losses of the second and third step, and of evaluations by k; where it stood after the first."""

    def __init__(self, recipe_path, recipe, sets, folder, ks):
        self.folder, train = pathlib.Path(folder), recipe["train"]
        self.batch, self.segment = train["eval_batch"], train["eval_segment"]
        self.memory = train["memory"] + train["segment"] - train["eval_segment"]
        sizes = {"train": train["batch"] * (train["segment"] * STEPS + 1), "valid": 64,
                 "test": self.batch * (2 * self.segment + 3)}
        for seed, (name, size) in enumerate(sizes.items()):
            (self.folder / name).write_bytes(text(size, seed))
        keys = {"train.steps": STEPS, "train.log_every": 1, "train.checkpoint_every": 1, "train.keep_last": STEPS,
                "train.eval_every": STEPS, "train.dtype": '"fp32"', "model.dropout": 0.0, "data.format": '"bytes"'}
        changes = sets + [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
        self.smoe("train", recipe_path, "--data", str(self.folder), "--out", "run", *changes)
        checkpoint = self.folder / "run" / "checkpoints" / "step-00000001"
        lines = [json.loads(line) for line in (self.folder / "run" / "metrics.jsonl").read_text().splitlines()]
        self.steps = [line for line in lines if "split" not in line][1:]
        self.weights, self.state = (load_file(checkpoint / f"{name}.safetensors") for name in ("model", "trainer"))
        found = self.smoe("eval", str(checkpoint), "--data", str(self.folder), "--split", "test", "--json",
                          "--k", ",".join(map(str, ks)), "--device", train["device"])
        self.evaluations = {row["k"]: row["nll"] for row in json.loads(found)["results"]}

    def smoe(self, *arguments):
        done = subprocess.run([common.built("SMOE_BINARY", "smoe"), *arguments], cwd=self.folder, env=dict(os.environ),
                              capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"smoe {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def tokens(self, name):
        return torch.tensor(list((self.folder / name).read_bytes()))

    def load_into(self, trained):
        """smoe's weights and Adam's state after the first step; the memory of the second."""
        trained.model.load_state_dict(self.weights)
        for name, parameter in trained.model.named_parameters():
            if parameter.requires_grad:
                trained.optimizer.state[parameter] = {
                    "step": self.state[f"adam.updates.{name}"].float().to(parameter.device),
                    "exp_avg": self.state[f"adam.mean.{name}"].clone().to(parameter.device),
                    "exp_avg_sq": self.state[f"adam.square.{name}"].clone().to(parameter.device),
                }
        return [self.state[f"memory.0.{layer}"].to(trained.device) for layer in range(len(trained.model.layers))]


def largest_differences(expected, recipe, compute):
    """Of the losses and of the norms that this way of computing the experts leads to, against smoe's."""
    recipe = {**recipe, "model": {**recipe["model"], "dropout": 0.0}}
    trained, train = Trained(recipe, 256, compute), recipe["train"]
    memory = expected.load_into(trained)
    losses, norms = [], []
    for k, loss in expected.evaluations.items():
        found, _ = trained.evaluate(expected.tokens("test"), k, expected.batch, expected.segment, expected.memory)
        losses.append(abs(found - loss))
    streams = expected.tokens("train").view(train["batch"], -1).to(trained.device)
    for line in expected.steps:
        begin = (line["step"] - 1) * train["segment"]
        inputs, targets = (streams[:, first:first + train["segment"]] for first in (begin, begin + 1))
        found, norm, memory = trained.step(inputs, targets, memory, line["k"], line["lr"])
        losses.append(abs(found - line["loss"]))
        norms.append(abs(norm / line["grad_norm"] - 1))
    return max(losses), max(norms)


def check(recipe_path, recipe, sets, folder, names, ks, dtypes):
    """Name → dtype → largest differences; the program ends where one is not small."""
    expected = Expected(recipe_path, recipe, sets, folder, ks)
    found = {name: {} for name in names}
    for name in names:
        for dtype in dtypes:
            precise = {**recipe, "train": {**recipe["train"], "dtype": dtype}}
            differences = largest_differences(expected, precise, experts.IMPLEMENTATIONS[name])
            found[name][dtype] = differences
            if not all(each <= tolerance for each, tolerance in zip(differences, TOLERANCE[dtype])):  # NaN is neither
                sys.exit(f"{name} in {dtype} does other work than smoe: losses are off by {differences[0]:.2g} nats, "
                         f"norms of gradients by {differences[1]:.2g} of them")
    return found


if __name__ == "__main__":
    print(json.dumps(check(**json.loads(sys.argv[1]))))
