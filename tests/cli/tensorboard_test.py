#!/usr/bin/env python3
"""The events that a run writes, read by TensorBoard's own reader: the numbers of metrics.jsonl, once each.

Needs the package tensorboard, which scripts/bootstrap --tests puts into .venv; skipped without it.
"""

import json
import math
import time
import unittest

import tool
from tool import sets

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError:
    EventAccumulator = None


@unittest.skipUnless(EventAccumulator, "this Python has no tensorboard; scripts/bootstrap --tests puts it into .venv")
class TensorBoard(tool.ToolTest):
    def events(self, run):
        reader = EventAccumulator(str(self.folder / run), size_guidance={"scalars": 0}, purge_orphaned_data=False)
        reader.Reload()
        return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}

    def expected(self, run):
        """What the lines of metrics.jsonl are as scalars."""
        tags = {}
        for text in (self.folder / run / "metrics.jsonl").read_text().splitlines():
            line = json.loads(text)
            if "split" in line:
                which = "dense" if line["k"] is None else f"k_{line['k']}"
                scalars = {f"valid_bpc/{which}": line["bpc"]}
            else:
                scalars = {f"train/{key}": line[key] for key in ("loss", "bpc", "k", "lr", "grad_norm") if line[key] is not None}
                for i, layer in enumerate(line["layers"]):
                    scalars[f"entropy/layer_{i}"] = layer["entropy"]
                    scalars[f"dropped/layer_{i}"] = layer["dropped"]
                    scalars[f"load_max_over_mean/layer_{i}"] = max(layer["load"]) / (sum(layer["load"]) / len(layer["load"]))
            for tag, value in scalars.items():
                tags.setdefault(tag, []).append((line["step"], value))
        return tags

    def assert_same(self, run):
        events, expected = self.events(run), self.expected(run)
        self.assertEqual(sorted(events), sorted(expected))
        for tag, points in expected.items():
            self.assertEqual([step for step, _ in events[tag]], [step for step, _ in points], tag)
            for (_, found), (_, value) in zip(events[tag], points):
                self.assertTrue(math.isclose(found, value, rel_tol=1e-6, abs_tol=1e-12), f"{tag}: {found} is not {value}")

    def test_a_mixture_and_a_dense_model(self):
        self.train("run")
        self.assert_same("run")
        self.train("dense", *sets(model__moe_layers='"none"'))
        self.assert_same("dense")

    def test_a_killed_run_has_each_event_once(self):
        process = self.start("train", "tiny.toml", "--data", "text.txt", "--out", "run", *sets(train__steps=400))
        while process.poll() is None and not list((self.folder / "run").glob("checkpoints/step-0000003*")):
            time.sleep(0.01)
        process.kill()
        process.wait()
        events = self.folder / "run" / "events.out.tfevents.smoe"
        before = events.read_bytes()
        events.write_bytes(before + before[:7])  # a record that the kill cut off
        self.run_tool("train", "--resume", "run")
        self.assertGreater(events.stat().st_size, len(before))
        self.assert_same("run")

    def test_damage_is_refused(self):
        self.train("run")
        events = self.folder / "run" / "events.out.tfevents.smoe"
        content = bytearray(events.read_bytes())
        content[40] ^= 1
        events.write_bytes(content)
        self.assert_refused("train", "--resume", "run", says=["events.out.tfevents.smoe", "damaged"])


if __name__ == "__main__":
    unittest.main()
