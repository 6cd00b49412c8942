#!/usr/bin/env python3
"""bench/peers on sizes that take no time: what it checks holds, and what it writes is complete.

Needs the packages torch and transformers, which scripts/bootstrap --tests puts into .venv; skipped without them.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import library

sys.path.insert(0, str(library.SOURCE / "tests" / "cli"))
import tool

WHY_NOT = library.WHY_NOT
if not WHY_NOT:
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        WHY_NOT = f"this Python has no transformers that loads ({error}); scripts/bootstrap --tests puts it into .venv"

PEERS = library.SOURCE / "bench" / "peers"


@unittest.skipIf(WHY_NOT, WHY_NOT)
class PeersTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="smoe-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def call(self, program, *arguments):
        environment = {**os.environ, "SMOE_BINARY": tool.binary()}
        return subprocess.run([sys.executable, "-B", PEERS / program, *arguments], cwd=self.folder, env=environment,
                              capture_output=True, text=True, timeout=300, check=False)

    def results(self, program, *arguments):
        done = self.call(program, *arguments, "-o", "results.jsonl")
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = [json.loads(line) for line in (self.folder / "results.jsonl").read_text().splitlines()]
        (self.folder / "results.jsonl").unlink()
        return lines, done.stdout


class Layer(PeersTest):
    def test_all_are_right_and_timed(self):
        for activation in ("relu", "swiglu"):
            with self.subTest(activation):
                results, text = self.results("layer.py", "--shape", "E4,D32,H16,T50,K2", "--threads", "1", "--repeat",
                                             "1", "--activation", activation)
                self.assertNotIn("Not run", text)
                names = {result["implementation"] for result in results}
                self.assertEqual(len(names), 9, names)
                self.assertEqual(len(results), 2 * 9)  # each in two dtypes
                flops = 2 * 50 * 2 * 32 * 16 * (3 if activation == "swiglu" else 2)
                for result in results:
                    for key, factor in (("forward", 1), ("forward_backward", 3)):
                        counted = result[key + "_gflops"] * result[key + "_ms"]["median"] * 1e6
                        self.assertAlmostEqual(counted, factor * flops)
                    # smoe keeps a hidden row for each slot, and nothing else.
                    if result["implementation"] == "smoe":
                        rows = 50 * 2 * 16 * (2 if activation == "swiglu" else 1)
                        self.assertEqual(result["activation_bytes"], rows * (4 if result["dtype"] == "fp32" else 2))

    def test_what_cannot_run_is_said(self):
        _, text = self.results("layer.py", "--shape", "E4,D33,H17,T5,K2", "--threads", "1", "--repeat", "1", "--dtype",
                               "fp32", "--max-gather", "0")
        for reason in ("grouped_mm, which fails", "transformers grouped_mm, which fails",
                       "transformers batched_mm, which would copy"):
            self.assertIn(f"Not run: {reason}", text)

    def test_bad_options_are_refused(self):
        for arguments, says in ((("--shape", "E4,D32,H16,T9,K5"), "cannot choose 5 of 4"),
                                (("--only", "smo"), "smo is none of")):
            done = self.call("layer.py", *arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn(says, done.stderr)


TINY = {"model.layers": 2, "model.width": 32, "model.heads": 2, "model.head_width": 16, "moe.experts": 4,
        "moe.expert_width": 16, "k_schedule.min": 2, "k_schedule.max": 4, "optimizer.lr": 1e-2, "train.batch": 2,
        "train.segment": 16, "train.memory": 24, "train.eval_batch": 2, "train.eval_segment": 8}


class Step(PeersTest):
    def sets(self, **changes):
        values = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
        return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]

    def test_both_do_the_same(self):
        checks, text = self.results("step.py", *self.sets(), "--k", "2,3", "--check")
        self.assertEqual(len(checks), 4 * 2, text)
        for result in checks:
            self.assertLess(result["loss"], 1e-5 if result["dtype"] == "fp32" else 2e-3, result["implementation"])
            self.assertLess(result["norm"], 1e-4 if result["dtype"] == "fp32" else 1e-2, result["implementation"])

    def test_the_model_in_pytorch_is_timed(self):
        # Nothing is compiled, which would take its time.
        results, text = self.results("step.py", *self.sets(), "--k", "2,3", "--eval-k", "all", "--rounds", "2",
                                     "--repeat", "1", "--threads", "1", "--dtype", "bf16", "--only", "sorted slices")
        self.assertEqual([result["bench"] for result in results], ["step check", "step"], text)
        speeds = results[1]
        self.assertEqual((sorted(speeds["train"]), sorted(speeds["eval"])), (["2", "3"], ["1", "2", "3", "4"]))
        self.assertGreater(speeds["peak_bytes"]["3"], 2**20)
        self.assertEqual(speeds["recipe"]["model"]["dropout"], 0.1)

    def test_a_recipe_it_does_not_have(self):
        done = self.call("step.py", *self.sets(moe__activation='"gelu"'), "--check")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr.strip(), 'the PyTorch model has only moe.activation = "relu", not "gelu"')

    def test_a_change_that_is_none(self):
        for change in ("train", "train.batch", "batch=3", "=", "train.batch="):
            done = self.call("step.py", "--set", change, "--check")
            self.assertEqual(done.returncode, 2, change)
            self.assertEqual(done.stderr.splitlines()[-1].split("error: ")[1],
                             f"--set takes TABLE.KEY=VALUE, not '{change}'")


if __name__ == "__main__":
    unittest.main()
