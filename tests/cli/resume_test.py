#!/usr/bin/env python3
"""A run that is killed and goes on ends bit for bit like one that was never disturbed.

The moments are random; the seed is printed, and SMOE_TEST_SEED sets it.
"""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import time
import unittest

import tool
from tool import sets

SEED = int(os.environ.get("SMOE_TEST_SEED", random.randrange(1_000_000)))
STEPS = 100


def setUpModule():
    print(f"SMOE_TEST_SEED={SEED}", flush=True)


class ResumeTest(tool.ToolTest):
    def setUp(self):
        super().setUp()
        self.random = random.Random(f"{SEED} {self.id()}")
        self.run_folder = self.folder / "b" / "run"
        self.checkpoints = self.run_folder / "checkpoints"

    def train_undisturbed(self, options):
        self.train(self.folder / "a" / "run", *options)

    def begin(self, options):
        return self.start("train", "tiny.toml", "--data", "text.txt", "--out", str(self.run_folder), *options)

    def go_on(self):
        return self.start("train", "--resume", str(self.run_folder))

    def finish(self, process):
        _, stderr = process.communicate(timeout=tool.TIMEOUT)
        self.assertEqual(process.returncode, 0, stderr.decode(errors="replace"))

    def wait(self, process, condition):
        """Looks again and again until the condition holds or the process has ended; whether it held."""
        limit = time.monotonic() + tool.TIMEOUT
        while not condition():
            if process.poll() is not None:
                return False
            self.assertLess(time.monotonic(), limit, "nothing happens")
            time.sleep(0.0002)  # a save takes milliseconds
        return True

    def entries(self):
        try:
            return set(os.listdir(self.checkpoints))
        except FileNotFoundError:
            return set()

    def step_of_last_line(self):
        try:
            return (self.run_folder / "metrics.jsonl").read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def last_name(self):
        try:
            return tool.last_checkpoint(self.run_folder).name
        except FileNotFoundError:
            return ""

    def assert_same_as_undisturbed(self):
        """The metrics, which checkpoints are best and last, and every byte of the last one."""
        a, b = self.folder / "a" / "run", self.run_folder
        self.assertEqual((a / "metrics.jsonl").read_bytes(), (b / "metrics.jsonl").read_bytes())
        self.assertGreater(len((a / "metrics.jsonl").read_bytes().splitlines()), STEPS // 3)
        index = pathlib.PurePath("checkpoints", "index.json")
        self.assertEqual((a / index).read_bytes(), (b / index).read_bytes())
        expected = tool.files_under(tool.last_checkpoint(a))
        found = tool.files_under(tool.last_checkpoint(b))
        self.assertIn("model.safetensors", expected)
        self.assertIn("trainer.safetensors", expected)
        self.assertEqual(expected.keys(), found.keys())
        for name in expected:
            self.assertTrue(expected[name] == found[name], f"{name} differs")
        self.assertEqual([name for name in self.entries() if name.startswith(".")], [], "leftovers")


class Killed(ResumeTest):
    """SIGKILL, which no process can prepare for. The kills go on until there have been enough of them."""

    def kill_and_go_on(self, options, kills, moment):
        """Kills the run `kills` times, each when `moment(process)` returns, and lets it finish. Returns how many of the
        kills hit it alive, how many left an unfinished save, and how many a save that the index does not know."""
        self.train_undisturbed(options)
        hits, unfinished, unknown = 0, 0, 0
        process = self.begin(options)
        for _ in range(kills):
            moment(process)
            process.kill()
            process.communicate(timeout=tool.TIMEOUT)
            hits += process.returncode == -signal.SIGKILL
            entries = self.entries()
            unfinished += any(name.startswith(".saving-") for name in entries)
            unknown += any(name.startswith("step-") and name > self.last_name() for name in entries)
            # Killed before it had its recipe, a run can only begin again, in the same folder.
            process = self.go_on() if (self.run_folder / "recipe.toml").exists() else self.begin(options)
        self.finish(process)
        self.assert_same_as_undisturbed()
        return hits, unfinished, unknown

    def any_time(self, process):
        # Starting takes a quarter of a second: any moment from the first system call on.
        end = time.monotonic() + self.random.uniform(0, 1)
        self.wait(process, lambda: time.monotonic() > end)

    def while_training(self, process):
        lines = self.step_of_last_line() + self.random.randint(1, 12)
        self.wait(process, lambda: self.step_of_last_line() >= lines)

    def while_saving(self, process):
        for _ in range(self.random.randint(1, 6)):
            before = self.entries()
            self.wait(process, lambda: any(name.startswith(".saving-") for name in self.entries() - before))
        time.sleep(self.random.uniform(0, 0.01))

    def after_a_rename(self, process):
        # The checkpoint has its name and the index does not know it yet, or just does.
        for _ in range(self.random.randint(1, 6)):
            before = self.entries()
            self.wait(process, lambda: any(name.startswith("step-") for name in self.entries() - before))

    def test_at_any_time(self):
        options = sets(train__steps=4 * STEPS, train__eval_every=50)
        hits, _, _ = self.kill_and_go_on(options, 8, self.any_time)
        self.assertGreater(hits, 0)

    def test_while_training_with_dropout_and_micro_batches(self):
        # Lines of the metrics are means over three steps, so that a checkpoint falls between two lines.
        options = sets(train__steps=STEPS, train__accumulate=2, train__log_every=3, train__threads=2,
                       model__dropout=0.2, model__attention_dropout=0.1)
        hits, _, _ = self.kill_and_go_on(options, 6, self.while_training)
        self.assertGreater(hits, 0)

    def test_while_training_with_a_k_that_is_drawn(self):
        options = sets(train__steps=STEPS, train__log_every=1, k_schedule__kind="random")
        hits, _, _ = self.kill_and_go_on(options, 4, self.while_training)
        self.assertGreater(hits, 0)
        lines = [json.loads(line) for line in (self.run_folder / "metrics.jsonl").read_text().splitlines()]
        drawn = [line["k"] for line in lines if "split" not in line]
        self.assertEqual(len(drawn), STEPS)
        self.assertEqual(set(drawn), {1, 2, 3, 4})
        self.assertNotEqual(drawn, sorted(drawn))

    def test_while_training_with_parts_that_get_frozen(self):
        # A checkpoint falls before, between and after the steps at which they are, 33 and 67.
        options = sets(train__steps=STEPS, train__log_every=1, moe__router="learned", k_schedule__min=2, freeze__router=0.33,
                       freeze__experts=0.67)
        hits, _, _ = self.kill_and_go_on(options, 5, self.while_training)
        self.assertGreater(hits, 0)
        lines = [json.loads(line) for line in (self.run_folder / "metrics.jsonl").read_text().splitlines()]
        frozen = {line["step"]: line.get("frozen") for line in lines if "split" not in line}
        self.assertEqual([frozen[32], frozen[33], frozen[66]], [None, {"router": 33}, {"router": 33}])
        self.assertEqual([frozen[67], frozen[100]], 2 * [{"router": 33, "experts": 67}])

    def test_while_training_with_a_mean_of_the_weights(self):
        options = sets(train__steps=STEPS, train__eval_every=5, average__start=0.2)
        hits, _, _ = self.kill_and_go_on(options, 5, self.while_training)
        self.assertGreater(hits, 0)
        expected, found = (tool.files_under(run / "average") for run in (self.folder / "a" / "run", self.run_folder))
        self.assertIn("model.safetensors", expected)
        self.assertEqual(expected, found)

    def test_while_saving(self):
        options = sets(train__steps=STEPS, train__checkpoint_every=1, train__keep_last=1)
        _, unfinished, _ = self.kill_and_go_on(options, 8, self.while_saving)
        self.assertGreater(unfinished, 0, "no kill hit a save")

    def test_between_a_save_and_its_entry_in_the_index(self):
        options = sets(train__steps=STEPS, train__checkpoint_every=1, train__keep_last=1)
        _, _, unknown = self.kill_and_go_on(options, 8, self.after_a_rename)
        self.assertGreater(unknown, 0, "no kill hit the moment")


class Asked(ResumeTest):
    """SIGTERM and Ctrl-C: the step is finished and saved, and the last line says how to go on."""

    def stop(self, process, number):
        lines = self.step_of_last_line() + self.random.randint(2, 8)
        self.assertTrue(self.wait(process, lambda: self.step_of_last_line() >= lines), "ended too early")
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=tool.TIMEOUT)
        self.assertEqual(process.returncode, 128 + number, stderr.decode(errors="replace"))
        advice = f"stopped and saved at step \\d+.*\n  smoe train --resume {re.escape(str(self.run_folder))}\n$"
        self.assertRegex(stdout.decode(), advice)
        step = int(stdout.decode().split(" at step ")[1].split(".")[0])
        self.assertEqual(tool.last_checkpoint(self.run_folder).name, f"step-{step:08d}")

    def test_stops_and_goes_on(self):
        options = sets(train__steps=1000, train__checkpoint_every=1000, train__eval_every=1000)
        self.train_undisturbed(options)
        process = self.begin(options)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            self.stop(process, number)
            process = self.go_on()
        self.finish(process)
        self.assert_same_as_undisturbed()

    def test_a_run_that_was_moved(self):
        options = sets(train__steps=STEPS)
        self.train_undisturbed(options)
        process = self.begin(options)
        self.stop(process, signal.SIGTERM)
        moved = self.folder / "elsewhere"
        moved.mkdir()
        (self.folder / "b" / "run").rename(moved / "run")
        shutil.copy(self.folder / "text.txt", moved / "copy.txt")
        self.run_folder = moved / "run"
        self.checkpoints = self.run_folder / "checkpoints"
        self.run_tool("train", "--resume", str(self.run_folder), "--data", str(moved / "copy.txt"))
        a, b = self.folder / "a" / "run", self.run_folder
        self.assertEqual((a / "metrics.jsonl").read_bytes(), (b / "metrics.jsonl").read_bytes())
        for name in ("model.safetensors", "trainer.safetensors"):
            expected, found = ((tool.last_checkpoint(run) / name).read_bytes() for run in (a, b))
            self.assertTrue(expected == found, f"{name} differs")

    def test_a_finished_run_has_nothing_left_to_do(self):
        self.train_undisturbed(sets(train__steps=14))
        a = self.folder / "a" / "run"
        before = tool.files_under(a)
        self.assertIn(b"done, 14 steps", self.run_tool("train", "--resume", str(a)))
        self.assertEqual(tool.files_under(a), before)


if __name__ == "__main__":
    unittest.main()
