#!/usr/bin/env python3
"""smoe slim: a default k, fewer experts, and what is refused."""

import json
import os
import shutil
import unittest

import tool
from tool import sets

EXPERTS = 4


class Slim(tool.ToolTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = cls.make_folder()
        for name, args in (("run", []), ("dense", sets(model__moe_layers='"none"', train__steps=2)),
                           ("switch", sets(moe__router="switch", train__steps=2)),
                           ("hash", sets(moe__router="hash", train__steps=2))):
            done = cls.call("train", "tiny.toml", "--data", "text.txt", "--out", name, *args, folder=cls.shared)
            assert done.returncode == 0, done.stderr

    def setUp(self):
        self.folder = self.shared

    def slim(self, *args):
        return json.loads(self.run_tool("slim", "run", *args, "--json"))

    def eval(self, *args):
        return json.loads(self.run_tool("eval", *args, "--json"))["results"]

    def bpc(self, model, k):
        return self.eval(model, "--k", str(k))[0]["bpc"]

    def test_default_k(self):
        document = self.slim("--k", "2", "-o", "two")
        self.assertEqual((document["default_k"], document["experts"], document["kept"]), (2, EXPERTS, []))
        self.assertEqual([row["k"] for row in document["before"]], [1, 2, 4])
        self.assertEqual(document["after"], [{"k": 2, "bpc": self.bpc("run", 2)}])
        results = self.eval("two")
        self.assertEqual([result["k"] for result in results], [2])
        # The dial still turns.
        self.assertEqual([result["k"] for result in self.eval("two", "--k", "all")], [1, 2, 3, 4])
        self.assertEqual(self.bpc("two", 4), self.bpc("run", 4))

    def test_default_k_in_generate(self):
        self.slim("--k", "1", "-o", "one")
        generate = ["--prompt", "the ", "--tokens", "60", "--temperature", "0"]
        text = self.run_tool("generate", "one", *generate)
        self.assertEqual(text, self.run_tool("generate", "run", "--k", "1", *generate))
        self.assertEqual(self.run_tool("generate", "one", "--k", "4", *generate),
                         self.run_tool("generate", "run", *generate))

    def test_fewer_experts(self):
        document = self.slim("--keep-experts", "2", "-o", "fewer")
        self.assertEqual((document["default_k"], document["experts"]), (0, 2))
        self.assertEqual(len(document["kept"]), 2)
        for ids in document["kept"]:
            self.assertEqual(len(ids), 2)
            self.assertEqual(ids, sorted(set(ids)))
            self.assertTrue(set(ids) <= set(range(EXPERTS)))
        self.assertEqual([row["k"] for row in document["after"]], [1, 2])
        self.assertEqual(document["after"], [{"k": k, "bpc": self.bpc("fewer", k)} for k in (1, 2)])
        self.assertEqual(document["before"][2]["bpc"], self.bpc("run", 4))
        inspected = json.loads(self.run_tool("inspect", "fewer", "--json"))
        parts = {part["part"]: part["total"] for part in inspected["parameters"]["parts"]}
        self.assertEqual(parts["experts"], 2 * 2 * (2 * 16 * 16 + 16 + 16))
        self.assertEqual(parts["router"], 2 * (2 * 16 + 2))
        self.assert_refused("eval", "fewer", "--k", "3", says=["--k", "1 to 2"])
        self.run_tool("generate", "fewer", "--prompt", "a", "--tokens", "5")

    def test_it_is_a_whole_checkpoint(self):
        document = self.slim("--keep-experts", "3", "--k", "2", "-o", "deep/er/whole")
        folder = self.folder / "deep" / "er" / "whole"
        self.assertEqual(sorted(os.listdir(folder)),
                         ["config.json", "manifest.json", "model.safetensors", "slim.json", "tokenizer.json"])
        self.assertEqual(sorted(os.listdir(folder.parent)), ["whole"], "nothing is left beside it")
        record = json.loads((folder / "slim.json").read_text())
        self.assertEqual((record["format"], record["version"], record["default_k"]), ("smoe-slim", 1, 2))
        self.assertEqual((record["chosen_by"], record["kept"], record["load"]["k"]), ("load", document["kept"], 3))
        self.assertEqual(record["recipe"]["moe"]["experts"], EXPERTS)
        self.assertEqual(record["data"]["path"], str(self.folder / "text.txt"))
        for name in ("config.json", "slim.json", "model.safetensors"):
            broken = self.folder / "broken"
            shutil.copytree(folder, broken)
            (broken / name).write_bytes((broken / name).read_bytes()[:-1])
            self.assert_refused("eval", "broken", says=[name])
            shutil.rmtree(broken)

    def test_slim_again(self):
        self.slim("--keep-experts", "3", "-o", "three")
        again = json.loads(self.run_tool("slim", "three", "--keep-experts", "2", "--k", "1", "-o", "again", "--json"))
        self.assertEqual((again["experts"], again["default_k"]), (2, 1))
        self.assertEqual(json.loads((self.folder / "again" / "slim.json").read_text())["recipe"]["moe"]["experts"],
                         EXPERTS)

    def test_at_random(self):
        kept = [self.slim("--keep-experts", "2", "--by", "random", "--seed", seed, "-o", name)["kept"]
                for seed, name in (("1", "r1"), ("1", "r1-again"), ("2", "r2"), ("3", "r3"), ("4", "r4"))]
        self.assertEqual(kept[0], kept[1])
        self.assertGreater(len({json.dumps(ids) for ids in kept}), 2)
        self.assertEqual((self.folder / "r1" / "model.safetensors").read_bytes(),
                         (self.folder / "r1-again" / "model.safetensors").read_bytes())

    def test_all_experts_stay_the_same(self):
        document = self.slim("--keep-experts", str(EXPERTS), "-o", "same")
        self.assertEqual(document["before"], document["after"])
        self.assertEqual((self.folder / "same" / "model.safetensors").read_bytes(),
                         (self.folder / document["model"] / "model.safetensors").read_bytes())

    def test_other_data(self):
        (self.folder / "other.txt").write_bytes(tool.make_text(seed=9))
        document = self.slim("--k", "2", "--data", "other.txt", "-o", "elsewhere")
        self.assertNotEqual(document["after"][0]["bpc"], self.bpc("run", 2))
        limited = self.slim("--k", "2", "--tokens", "100", "-o", "limited")
        self.assertNotEqual(limited["after"][0]["bpc"], self.bpc("run", 2))

    def test_without_the_text(self):
        alone = self.make_folder()
        shutil.copytree(tool.last_checkpoint(self.folder / "run"), alone / "model")
        text = self.folder / "text.txt"
        text.rename(self.folder / "away.txt")
        try:
            self.assert_refused("slim", "model", "--keep-experts", "2", "-o", "out", folder=alone,
                                says=["--data", "--by random"])
            printed = self.run_tool("slim", "model", "--keep-experts", "2", "--by", "random", "-o", "out", folder=alone)
            self.assertNotIn(b"bpc", printed)
        finally:
            (self.folder / "away.txt").rename(text)

    def test_table(self):
        lines = self.run_tool("slim", "run", "--keep-experts", "2", "--k", "1", "-o", "table").decode().splitlines()
        self.assertIn("2 experts, default k 1", lines[0])
        self.assertEqual(lines[2].split(), ["k", "bpc", "before", "bpc", "after"])
        self.assertEqual([line.split()[0] for line in lines[3:]], ["1", "2", "4"])
        self.assertEqual(lines[-1].split()[2], "-")

    def test_a_router_without_k(self):
        document = json.loads(self.run_tool("slim", "switch", "--keep-experts", "2", "-o", "two-switch", "--json"))
        self.assertEqual((document["default_k"], document["experts"]), (0, 2))
        evaluated = [self.eval(model)[0]["bpc"] for model in ("switch", "two-switch")]
        self.assertEqual(document["before"], [{"k": None, "bpc": evaluated[0]}])
        self.assertEqual(document["after"], [{"k": None, "bpc": evaluated[1]}])
        load = json.loads((self.folder / "two-switch" / "slim.json").read_text())["load"]
        self.assertIsNone(load["k"])
        lines = self.run_tool("slim", "switch", "--keep-experts", "3", "-o", "three-switch").decode().splitlines()
        self.assertEqual(lines[-1].split()[0], "-")
        self.assert_refused("slim", "switch", "--k", "1", "-o", "no", says=["--k", "'switch'", "no k"])

    def test_a_router_that_cannot_be_cut(self):
        self.assert_refused("slim", "hash", "--keep-experts", "2", "-o", "no", says=["'hash'", "fewer experts"])
        self.run_tool("slim", "hash", "--k", "2", "-o", "hash-two")
        self.assertEqual([result["k"] for result in self.eval("hash-two")], [2])

    def test_refusals(self):
        self.slim("--k", "2", "-o", "taken")
        before = tool.files_under(self.folder / "taken")
        self.assert_refused("slim", "run", "--k", "2", "-o", "taken", says=["taken", "is there already"])
        self.assertEqual(tool.files_under(self.folder / "taken"), before)
        for args, says in (
            ([], ["--k", "--keep-experts"]),
            (["--k", "0"], ["--k", "1 to 4"]),
            (["--k", "5"], ["--k", "1 to 4"]),
            (["--k", "3", "--keep-experts", "2"], ["--k", "1 to 2"]),
            (["--keep-experts", "0"], ["--keep-experts", "1 to 4"]),
            (["--keep-experts", "5"], ["--keep-experts", "1 to 4"]),
            (["--keep-experts", "2", "--by", "lode"], ["--by", "did you mean 'load'?"]),
            (["--k", "2", "--tokens", "-1"], ["--tokens"]),
        ):
            self.assert_refused("slim", "run", *args, "-o", "no", says=says)
        self.assert_refused("slim", "dense", "--k", "1", "-o", "no", says=["dense", "no experts"])
        self.assert_refused("slim", "gone", "--k", "1", "-o", "no", says=["gone"])
        self.assertFalse((self.folder / "no").exists())


if __name__ == "__main__":
    unittest.main()
