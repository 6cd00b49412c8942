#!/usr/bin/env python3
"""smoe eval: what its JSON holds, and that the numbers in it fit together."""

import json
import math
import unittest

import tool
from tool import sets

# The fields of a result for a model with the dial k; a dense model has no "k".
RESULT = ["dial", "value", "k", "mean_active_experts", "nll", "bpc", "tokens", "active_parameters", "flops_per_token",
          "tokens_per_second"]
EXPERTS = 4


def without_time(document):
    for result in document["results"]:
        del result["tokens_per_second"]
    return document


class Eval(tool.ToolTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = cls.make_folder()
        for name, args in (("run", []), ("dense", sets(model__moe_layers='"none"', model__ffn_width=64))):
            done = cls.call("train", "tiny.toml", "--data", "text.txt", "--out", name, *args, folder=cls.shared)
            assert done.returncode == 0, done.stderr

    def setUp(self):
        self.folder = self.shared

    def eval(self, *args):
        return json.loads(self.run_tool("eval", *args, "--json"))

    def test_keys(self):
        document = self.eval("run", "--k", "all")
        self.assertEqual(list(document), ["model", "checkpoint", "step", "split", "threads", "parameters", "data", "results"])
        self.assertEqual(list(document["data"]), ["path", "sha256"])
        self.assertEqual(document["data"]["path"], str(self.folder / "text.txt"))
        self.assertRegex(document["data"]["sha256"], "^[0-9a-f]{64}$")
        self.assertTrue((self.folder / document["model"] / "model.safetensors").is_file())
        for result in document["results"]:
            self.assertEqual(list(result), RESULT)

    def test_all_is_one_to_e(self):
        results = self.eval("run", "--k", "all")["results"]
        self.assertEqual([result["k"] for result in results], list(range(1, EXPERTS + 1)))
        for result in results:
            self.assertEqual(result["dial"], "k")
            self.assertEqual(result["value"], result["k"])
            self.assertEqual(result["mean_active_experts"], result["k"])
            self.assertAlmostEqual(result["bpc"], result["nll"] / math.log(2), delta=1e-12)
            self.assertTrue(0 < result["nll"] < math.log(256))
            self.assertEqual(result["tokens"], 2 * (1000 - 1))  # two streams of the 2000 bytes of the test text
            self.assertGreater(result["tokens_per_second"], 0)

    def test_each_expert_costs_the_same(self):
        results = self.eval("run", "--k", "all")["results"]
        # Of an expert of 16 → 16 → 16: two products of 16 × 16, and their biases, in two layers.
        for less, more in zip(results, results[1:]):
            self.assertEqual(more["flops_per_token"] - less["flops_per_token"], 2 * 2 * 2 * 16 * 16)
            self.assertEqual(more["active_parameters"] - less["active_parameters"], 2 * (2 * 16 * 16 + 16 + 16))

    def test_the_same_again(self):
        first = self.eval("run", "--k", "all")
        self.assertEqual(without_time(first), without_time(self.eval("run", "--k", "all")))
        # A row does not depend on which others are asked for, nor on whether it is asked of the run or the checkpoint.
        other = self.eval(first["model"], "--k", "4,2")
        self.assertEqual(without_time(other)["results"], [first["results"][3], first["results"][1]])

    def test_tokens_limit_what_is_read(self):
        limited = self.eval("run", "--k", "2", "--tokens", "100")["results"][0]
        self.assertEqual(limited["tokens"], 100)  # fifty in each of two streams
        self.assertNotEqual(limited["nll"], self.eval("run", "--k", "2")["results"][0]["nll"])

    def test_default_is_powers_of_two(self):
        self.assertEqual([result["k"] for result in self.eval("run")["results"]], [1, 2, 4])

    def test_dense(self):
        document = self.eval("dense")
        self.assertEqual(len(document["results"]), 1)
        result = document["results"][0]
        self.assertEqual(list(result), [key for key in RESULT if key != "k"])
        self.assertEqual((result["dial"], result["value"], result["mean_active_experts"]), ("none", None, 0))
        self.assertAlmostEqual(result["bpc"], result["nll"] / math.log(2), delta=1e-12)

    def test_data_and_split(self):
        test, valid, train = (self.eval("run", "--k", "4", "--split", split) for split in ("test", "valid", "train"))
        self.assertEqual(test["data"], valid["data"])
        self.assertEqual(train["results"][0]["tokens"], 2 * (18_000 - 1))
        self.assertNotEqual(test["results"][0]["nll"], valid["results"][0]["nll"])
        (self.folder / "other.txt").write_bytes(tool.make_text(seed=9))
        other = self.eval("run", "--k", "4", "--data", "other.txt")
        self.assertNotEqual(other["data"]["sha256"], test["data"]["sha256"])
        self.assertGreater(other["results"][0]["nll"], test["results"][0]["nll"], "words that it has never seen")

    def test_training_is_worth_something(self):
        self.train("short", *sets(train__steps=1, k_schedule__min=4))
        untrained = self.eval("short", "--k", "4")["results"][0]["bpc"]
        self.assertLess(self.eval("run", "--k", "4")["results"][0]["bpc"], untrained - 1)
        self.assertLess(self.eval("dense")["results"][0]["bpc"], untrained - 1)

    def test_table(self):
        lines = self.run_tool("eval", "run", "--k", "1,4").decode().splitlines()
        self.assertEqual(len(lines), 4)
        self.assertEqual(lines[1].split()[:3], ["k", "bpc", "nll"])
        self.assertEqual([line.split()[0] for line in lines[2:]], ["1", "4"])

    def test_a_text_that_has_changed(self):
        text = self.folder / "text.txt"
        content = text.read_bytes()
        text.write_bytes(content[:-1] + b"!")
        done = self.call("eval", "run", "--k", "1", folder=self.folder)
        text.write_bytes(content)
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stderr.decode(), "^smoe: warning: .*text.txt has changed .*\n$")
        text.rename(self.folder / "gone.txt")
        self.assert_refused("eval", "run", says=["text.txt", "no such file"])
        (self.folder / "gone.txt").rename(text)


if __name__ == "__main__":
    unittest.main()
