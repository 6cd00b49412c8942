#!/usr/bin/env python3
"""A loss that is no number any more stops the run, which says where it began and keeps the state before it."""

import json
import unittest

import tool
from tool import sets


class NotFinite(tool.ToolTest):
    def assert_stops(self, step, *args):
        line = self.assert_fails("train", "tiny.toml", "--data", "text.txt", "--out", "run", *args, code=1)
        before = self.folder / "run" / "checkpoints" / f"step-{step - 1:08d}"
        self.assertRegex(line, rf"^smoe: step {step}: the loss is not finite; it began in [a-z0-9_.]+\. ")
        self.assertIn(f"run/checkpoints/{before.name}", line)
        self.assertEqual(tool.last_checkpoint(self.folder / "run"), before)
        return line

    def test_a_learning_rate_that_is_too_high(self):
        # The first update is finite and enormous; the second forward is not finite.
        line = self.assert_stops(2, *sets(optimizer__lr=1e30, train__log_every=1))
        self.assertIn("layers.0.", line)
        steps = [json.loads(text)["step"] for text in (self.folder / "run" / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual(steps, [1])
        # What was saved is whole, and going on with it comes to the same end.
        self.run_tool("eval", "run", "--k", "1")
        before = tool.files_under(self.folder / "run" / "checkpoints")
        self.assertEqual(self.assert_fails("train", "--resume", "run", code=1), line)
        self.assertEqual(tool.files_under(self.folder / "run" / "checkpoints"), before)

    def test_weights_that_are_too_large(self):
        self.assert_stops(1, *sets(model__init_std=1e30))

    def test_later_on(self):
        # Warm-up makes it a few steps; what was saved before can still be used.
        args = sets(optimizer__lr=1e30, optimizer__warmup=40, train__checkpoint_every=1)
        line = self.assert_fails("train", "tiny.toml", "--data", "text.txt", "--out", "run", *args, code=1)
        self.assertIn("the loss is not finite", line)
        self.run_tool("generate", "run", "--prompt", "a", "--tokens", "3")


if __name__ == "__main__":
    unittest.main()
