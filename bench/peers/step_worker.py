#!/usr/bin/env python3
"""A PyTorch model that trains and evaluates in a process of its own, on request: a JSON object a line, in and out.

step.py starts it with the recipe, how the experts are computed, and threads, in its argument, a JSON object.
"""

import json
import sys
import time

import common  # before torch
import torch

import experts
import memory
from transformer_xl import Trained


class Worker:
    def __init__(self, recipe, variant, threads):
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        name, _, compiled = variant.partition(" + ")
        compute = experts.IMPLEMENTATIONS[name]
        if compiled:
            torch._dynamo.config.recompile_limit = 64  # every length of memory is one
            # Slices as long as the routing makes them would be compiled anew each time; the rest of the model is not.
            compute = torch.compiler.disable(compute) if name in experts.AS_LONG_AS_ROUTED else compute
        self.train = recipe["train"]
        self.trained = Trained(recipe, 256, compute, bool(compiled))
        shape = (self.train["batch"], self.train["segment"] + 1)
        self.bytes = torch.randint(0, 256, shape).to(self.trained.device)
        self.memory = self.trained.model.empty_memory(self.train["batch"])

    def step(self, k):
        self.memory = self.trained.step(self.bytes[:, :-1], self.bytes[:, 1:], self.memory, k)[-1]

    def train_steps(self, k, repeat):
        """Seconds of each step, after those that fill the memory or compile."""
        if self.trained.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        filling = -(-self.train["memory"] // self.train["segment"])
        for _ in range(2 + filling):
            self.step(k)
        return {"seconds": [common.timed(lambda: self.step(k)) for _ in range(repeat)]}

    def evaluate(self, k, segments):
        """Tokens a second over an evaluation that begins without memory, as smoe's does; one before it warms up."""
        batch, segment = self.train["eval_batch"], self.train["eval_segment"]
        memory_length = self.train["memory"] + self.train["segment"] - segment
        text = torch.randint(0, 256, (batch * (segment * segments + 1),))
        self.trained.evaluate(text, k, batch, segment, memory_length)
        start = time.perf_counter()
        _, tokens = self.trained.evaluate(text, k, batch, segment, memory_length)
        return {"tokens_per_second": tokens / (time.perf_counter() - start)}

    def peak(self):
        """The most memory of the process, or of tensors on the GPU."""
        on_gpu = self.trained.device == "cuda"
        return {"peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else memory.memory_status("VmHWM")}


def main():
    worker = Worker(**json.loads(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(worker, request.pop("do"))(**request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
