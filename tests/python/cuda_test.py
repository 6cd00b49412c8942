#!/usr/bin/env python3
"""The tests of operator_test.py once more with tensors on a GPU, and what is of a GPU alone; skipped where there is none."""

import os
import unittest

os.environ["SMOE_TEST_DEVICE"] = "cuda"

from library import torch
from operator_test import *
from operator_test import Case, OperatorTest


class Captured(OperatorTest):
    def test_nothing_waits_for_the_device(self):
        # What waits for it cannot be captured. The graph replays with other tokens and another routing.
        case, other = (Case(torch.bfloat16, T=200, D=64, H=128, E=8, K=3, seed=seed) for seed in (1, 2))
        other.w1, other.b1, other.w2, other.b2 = case.w1, case.b1, case.w2, case.b2

        def step(case):
            y = torch.ops.smoe.moe_mlp(*case.arguments(), 0.25, 7)
            return [y, *torch.autograd.grad(y, list(case.inputs().values()), torch.ones_like(y))]

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step(case)  # what is made once
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = step(case)
        expected = step(other)
        with torch.no_grad():
            for mine, its in ((case.x, other.x), (case.weight, other.weight), (case.expert, other.expert)):
                mine.copy_(its)
        graph.replay()
        for each, wanted in zip(found, expected):
            self.assertTrue(torch.equal(each, wanted))


if __name__ == "__main__":
    unittest.main()
