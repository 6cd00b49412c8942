#!/usr/bin/env python3
"""smoe inspect: counts, costs, memory and tensors, of recipes and of checkpoints."""

import hashlib
import json
import shutil
import struct
import unittest

import tool
from tool import sets


def tensors_of(path):
    """The tensors of a safetensors file: name → (dtype, shape, bytes)."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    begin = 8 + size
    return {name: (t["dtype"], t["shape"], data[begin + t["data_offsets"][0]:begin + t["data_offsets"][1]])
            for name, t in header.items()}


class Inspect(tool.ToolTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = cls.make_folder()
        done = cls.call("train", "tiny.toml", "--data", "text.txt", "--out", "run", *sets(train__steps=4),
                        folder=cls.shared)
        assert done.returncode == 0, done.stderr

    def setUp(self):
        self.folder = self.shared

    def inspect(self, *args):
        return json.loads(self.run_tool("inspect", *args, "--json"))

    def parts(self, document):
        return {part["part"]: part["total"] for part in document["parameters"]["parts"]}

    def test_the_published_model(self):
        document = self.inspect(str(tool.SOURCE / "recipes" / "table1" / "smoe_dropout.toml"), "--k", "all")
        self.assertEqual(document["vocabulary"], 256, "without a text, all bytes count")
        self.assertEqual(document["parameters"]["total"], 19_521_804 + (256 - 204) * 257)
        self.assertEqual(document["parameters"]["frozen"], 16_448)
        self.assertEqual(document["parameters"]["trainable"], 19_505_356 + (256 - 204) * 257)
        parts = self.parts(document)
        self.assertEqual(sum(parts.values()), document["parameters"]["total"])
        self.assertEqual(parts["router"], 16_448)
        self.assertEqual(parts["experts"], 4 * 4_206_592)
        active = {row["k"]: row["active_parameters"] for row in document["active"]}
        self.assertEqual(list(active), list(range(1, 17)))
        more = (256 - 204) * 257
        for k, published in ((1, 3_747_084), (2, 4_798_732), (4, 6_902_028), (8, 11_108_620), (16, 19_521_804)):
            self.assertEqual(active[k], published + more)

    def test_a_recipe_needs_neither_text_nor_room(self):
        document = self.inspect("tiny.toml", *sets(model__width=8192, model__layers=28, moe__experts=64,
                                                   k_schedule__max=64, moe__expert_width=32768))
        self.assertGreater(document["parameters"]["total"], 9e11)
        self.assertFalse(document["memory"]["training"]["fits"])
        self.assertFalse(document["memory"]["generation"]["fits"])
        self.assertNotIn("tensors", document)

    def test_small_things_fit(self):
        memory = self.inspect("tiny.toml")["memory"]
        self.assertTrue(memory["training"]["fits"])
        self.assertGreater(memory["limit"]["bytes"], 1e8)
        for need in (memory["training"], memory["generation"]):
            parts = [bytes_ for name, bytes_ in need.items() if name not in ("total", "fits")]
            self.assertAlmostEqual(sum(parts), need["total"], delta=1)
            self.assertTrue(all(part >= 0 for part in parts), need)
        self.assertEqual(memory["generation"]["gradients"], 0)

    def test_costs_are_those_of_eval(self):
        document = self.inspect("run", "--k", "1,4")
        evaluated = json.loads(self.run_tool("eval", "run", "--k", "1,4", "--json"))["results"]
        for row, result in zip(document["active"], evaluated, strict=True):
            for key in ("k", "active_parameters", "flops_per_token"):
                self.assertEqual(row[key], result[key])

    def test_a_run_and_its_recipe_are_the_same_model(self):
        run, recipe = self.inspect("run"), self.inspect("run/recipe.toml")
        for key in ("parameters", "active", "vocabulary", "memory"):
            self.assertEqual(run[key], recipe[key], key)

    def test_tensors(self):
        document = self.inspect("run")
        found = {t["name"]: (t["dtype"], t["shape"], t["sha256"]) for t in document["tensors"]}
        expected = tensors_of(self.folder / document["source"] / "model.safetensors")
        self.assertEqual(found, {name: (dtype, shape, hashlib.sha256(data).hexdigest())
                                 for name, (dtype, shape, data) in expected.items()})

    def test_dense(self):
        document = self.inspect("tiny.toml", *sets(model__moe_layers='"none"'))
        self.assertEqual([row["k"] for row in document["active"]], [None])
        self.assertEqual(document["active"][0]["active_parameters"], document["parameters"]["total"])
        self.assertNotIn("experts", self.parts(document))
        self.assert_refused("inspect", "tiny.toml", "--k", "1", *sets(model__moe_layers='"none"'), says=["dense"])

    def test_parts_that_are_frozen_from_the_start(self):
        plain, frozen, late = (self.inspect("tiny.toml", *sets(freeze__experts=share)) for share in (1, 0, 0.5))
        experts = next(part for part in frozen["parameters"]["parts"] if part["part"] == "experts")
        self.assertEqual((experts["trainable"], experts["frozen"]), (0, experts["total"]))
        self.assertEqual(plain["parameters"]["trainable"] - frozen["parameters"]["trainable"], experts["total"])
        optimizer = [document["memory"]["training"]["optimizer"] for document in (plain, frozen)]
        self.assertEqual(optimizer[0] - optimizer[1], 2 * 4 * experts["total"])
        self.assertEqual(late["parameters"], plain["parameters"], "training starts with all of it")

    def test_every_router(self):
        for row in json.loads(self.run_tool("list", "routers", "--json")):
            with self.subTest(row["name"]):
                document = self.inspect("tiny.toml", *sets(moe__router=row["name"]))
                has_k = row["dial"] == "k"
                self.assertEqual([one["k"] for one in document["active"]], [1, 2, 4] if has_k else [None] * 3)
                self.assertEqual([one["active_experts"] for one in document["active"]], [1, 2, 4])
                self.assertEqual(document["experts"], 4)
                self.assertEqual(document["active"][-1]["active_parameters"], document["parameters"]["total"])
                self.assertNotIn("other", self.parts(document))
                self.assertTrue(document["memory"]["training"]["fits"])
        text = self.run_tool("inspect", "tiny.toml", *sets(moe__router="top_p")).decode()
        self.assertRegex(text, "(?m)^active +active params")

    def test_a_format_that_looks_at_the_text(self):
        byte_count = len(set((self.folder / "text.txt").read_bytes()) - {ord("\n")})
        document = self.inspect("tiny.toml", "--data", "text.txt", *sets(data__format="enwik8"))
        self.assertEqual(document["vocabulary"], byte_count)
        self.assert_refused("inspect", "tiny.toml", "--data", "gone.txt", *sets(data__format="enwik8"),
                            says=["gone.txt", "no such file"])

    def test_text(self):
        text = self.run_tool("inspect", "run").decode()
        for piece in ("part ", "router", "FLOPs/token", "training needs about ", " fits in the ", "SHA-256",
                      "layers.0.moe.experts.0.w1"):
            self.assertIn(piece, text)
        self.assertNotIn("SHA-256", self.run_tool("inspect", "tiny.toml").decode())

    def test_refusals(self):
        self.assert_refused("inspect", "gone", says=["gone", "no such run, checkpoint or recipe"])
        self.assert_refused("inspect", "run", "--set", "train.batch=3", says=["--set", "folder"])
        self.assert_refused("inspect", "text.txt", says=["text.txt"])
        self.assert_refused("inspect", "tiny.toml", "--k", "5", says=["--k", "1 to 4"])
        self.assert_refused("inspect", "tiny.toml", "--set", "moe.expert=4", says=["moe.experts"])
        self.assert_refused("inspect", str(tool.SOURCE / "docs"), says=["neither a checkpoint"])

    def test_an_altered_checkpoint(self):
        copy = self.folder / "altered"
        shutil.copytree(tool.last_checkpoint(self.folder / "run"), copy)
        weights = copy / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x77")
        self.assert_refused("inspect", "altered", says=["model.safetensors"])

    def test_train_warns_where_memory_is_short_and_goes_on(self):
        # So many streams that no machine holds them; what ends this is that the text is too short for them.
        done = self.call("train", "tiny.toml", "--data", "text.txt", "--out", "large",
                         *sets(train__batch=16_000_000, train__segment=4096), folder=self.folder)
        lines = done.stderr.decode().splitlines()
        self.assertEqual(done.returncode, 2)
        self.assertEqual(len(lines), 2, lines)
        self.assertRegex(lines[0], "^smoe: warning: this training needs about .* of memory, and .*B; smoe inspect ")
        self.assertIn("tokens", lines[1])

    def test_train_says_nothing_where_memory_suffices(self):
        done = self.call("train", "tiny.toml", "--data", "text.txt", "--out", "small", *sets(train__steps=1),
                         folder=self.folder)
        self.assertEqual(done.returncode, 0)
        self.assertNotIn(b"warning", done.stderr)


if __name__ == "__main__":
    unittest.main()
