#!/usr/bin/env python3
"""smoe upcycle: mixtures from a dense model, null experts for a mixture, and trainings that begin with them."""

import json
import os
import unittest

import tool
from tool import sets


class Upcycle(tool.ToolTest):
    MIXTURE = sets(moe__router="learned", moe__expert_width=64, k_schedule__kind="constant", k_schedule__min=2,
                   k_schedule__max=2, model__moe_layers="[1]")

    @classmethod
    def setUpClass(cls):
        cls.shared = cls.make_folder()
        for name, args in (("dense", sets(model__moe_layers='"none"')), ("mixture", cls.MIXTURE)):
            done = cls.call("train", "tiny.toml", "--data", "text.txt", "--out", name, *args, folder=cls.shared)
            assert done.returncode == 0, done.stderr

    def setUp(self):
        self.folder = self.shared

    def upcycle(self, model, out, *args):
        return json.loads(self.run_tool("upcycle", model, "tiny.toml", "-o", out, *args, "--json"))

    def bpc(self, model, *args):
        return [row["bpc"] for row in json.loads(self.run_tool("eval", model, *args, "--json"))["results"]]

    def test_a_dense_model_becomes_a_mixture_that_answers_as_it_did(self):
        document = self.upcycle("dense", "up", *self.MIXTURE)
        (before,) = self.bpc("dense")
        for bpc in self.bpc("up", "--k", "all"):
            self.assertAlmostEqual(bpc, before, places=4)
        block = 2 * 64 * 16 + 64 + 16
        parts = document["parameters"]
        self.assertEqual(parts["feed-forward"], {"before": 2 * block, "after": block})
        self.assertEqual(parts["experts"], {"before": 0, "after": 4 * block})
        self.assertEqual(parts["router"], {"before": 0, "after": 4 * 16})
        self.assertEqual(parts["all"]["after"] - parts["all"]["before"], 3 * block + 4 * 16)
        inspected = json.loads(self.run_tool("inspect", "up", "--json"))
        self.assertEqual(inspected["parameters"]["total"], parts["all"]["after"])
        self.assertIsNotNone(inspected["memory"]["training"])

    def test_it_is_a_whole_checkpoint(self):
        self.upcycle("dense", "deep/er/up", *self.MIXTURE)
        folder = self.folder / "deep" / "er" / "up"
        self.assertEqual(sorted(os.listdir(folder)),
                         ["config.json", "manifest.json", "model.safetensors", "tokenizer.json", "upcycle.json"])
        record = json.loads((folder / "upcycle.json").read_text())
        self.assertEqual((record["format"], record["version"], record["step"]), ("smoe-upcycle", 1, 40))
        self.assertEqual(record["data"]["path"], str(self.folder / "text.txt"))
        self.assertEqual(record["recipe"]["moe"]["expert_width"], 64)
        self.run_tool("slim", "deep/er/up", "--keep-experts", "2", "-o", "slim-again")
        self.assertEqual(len(self.run_tool("generate", "deep/er/up", "--prompt", "a", "--tokens", "5")), 1 + 5 + 1)

    def test_a_training_begins_with_it(self):
        self.upcycle("dense", "start", *self.MIXTURE)
        (dense,) = self.bpc("dense", "--split", "valid")
        self.train("on", *self.MIXTURE, "--init", "start", *sets(train__steps=1, train__eval_tokens=0,
                                                                 optimizer__lr=1e-9))
        (valid, _) = [json.loads(line) for line in (self.folder / "on" / "metrics.jsonl").read_text().splitlines()
                      if "split" in line]
        self.assertAlmostEqual(valid["bpc"], dense, places=3)
        self.assertIn(f'init = "{self.folder / "start"}"', (self.folder / "on" / "recipe.toml").read_text())
        self.run_tool("train", "--resume", "on")
        # Of a run it is the best checkpoint of today.
        self.train("more", *sets(model__moe_layers='"none"', train__steps=1), "--init", "dense")
        self.assertRegex((self.folder / "more" / "recipe.toml").read_text(), 'init = ".*/dense/checkpoints/step-')

    def test_the_seed_draws_the_routers(self):
        for name, seed in (("s1", "1"), ("s1-again", "1"), ("s2", "2")):
            self.upcycle("dense", name, *self.MIXTURE, "--seed", seed)
        weights = [(self.folder / name / "model.safetensors").read_bytes() for name in ("s1", "s1-again", "s2")]
        self.assertEqual(weights[0], weights[1])
        self.assertNotEqual(weights[0], weights[2])

    def test_null_experts(self):
        nulls = [*self.MIXTURE, *sets(moe__router="adamoe", moe__experts=8, moe__null_experts=4)]
        document = self.upcycle("mixture", "nulls", *nulls)
        self.assertEqual(document["parameters"]["experts"]["before"], document["parameters"]["experts"]["after"])
        self.assertEqual(document["parameters"]["router"], {"before": 4 * 16, "after": 8 * 16})
        # A network and its twin are taken together.
        for old, new in zip(self.bpc("mixture", "--k", "1,2,4"), self.bpc("nulls", "--k", "2,4,8"), strict=True):
            self.assertAlmostEqual(old, new, places=4)
        self.train("with-nulls", *nulls, "--init", "nulls")

    def test_table(self):
        lines = self.run_tool("upcycle", "dense", "tiny.toml", "-o", "printed", *self.MIXTURE).decode().splitlines()
        self.assertIn("1 mixture of 4 experts", lines[0])
        self.assertEqual(lines[1].split(), ["part", "before", "after"])
        self.assertIn("smoe train tiny.toml --init printed", lines[-1])

    def test_refusals(self):
        def refuse(model, *args, says):
            self.assert_refused("upcycle", model, "tiny.toml", "-o", "no", *args, says=says)
            self.assertFalse((self.folder / "no").exists())

        refuse("dense", says=["moe.expert_width is 16", "model.ffn_width 64"])
        refuse("dense", *self.MIXTURE, *sets(model__width=32), says=["model.width is 16 in the model and 32"])
        refuse("dense", *self.MIXTURE, *sets(model__layers=3), says=["model.layers is 2 in the model and 3"])
        refuse("dense", *self.MIXTURE, *sets(data__format="enwik8"), says=["data.format", "bytes", "enwik8"])
        refuse("mixture", *sets(model__moe_layers='"none"'), says=["layer 1", "dense in the recipe"])
        refuse("mixture", *self.MIXTURE, *sets(moe__experts=6), says=["4 networks in the model and 6"])
        refuse("nowhere", *self.MIXTURE, says=["nowhere", "no such run"])
        self.upcycle("dense", "taken", *self.MIXTURE)
        self.assert_refused("upcycle", "dense", "tiny.toml", "-o", "taken", *self.MIXTURE, says=["taken", "is there already"])
        self.assert_refused("train", "tiny.toml", "--data", "text.txt", "--out", "no", "--init", "dense", *self.MIXTURE,
                            says=["train.init", 'model.moe_layers is "none" in the model and [1]', "smoe upcycle"])
        self.assert_refused("train", "--resume", "dense", "--init", "dense", says=["--resume"])
        self.assertFalse((self.folder / "no").exists())


if __name__ == "__main__":
    unittest.main()
