#!/usr/bin/env python3
"""Every kind of router from a recipe: training, resuming, evaluation at its dial, generation; and smoe list."""

import json
import signal
import time
import unittest

import tool
from tool import sets


# What makes a kind do more than it does by itself.
PUBLISHED_ALSO = {"learned": ["moe.learned.bias_rate=0.001", "losses.z=0.001", "moe.learned.jitter=0.01"]}


def routers():
    """The kinds as smoe list prints them."""
    done = tool.ToolTest.call("list", "routers", "--json", folder=".")
    return json.loads(done.stdout)


class List(tool.ToolTest):
    def test_tables(self):
        names = {"routers": "random_frozen", "experts": "ffn", "models": "transformer_xl", "schedules": "linear",
                 "losses": "balance", "objectives": "likelihood"}
        for table, name in names.items():
            rows = json.loads(self.run_tool("list", table, "--json"))
            self.assertIn(name, [row["name"] for row in rows])
            text = self.run_tool("list", table).decode()
            for row in rows:
                self.assertTrue(row["summary"])
                self.assertRegex(text, rf"(?m)^  {row['name']} +\S")

    def test_routers_have_all_that_a_reader_wants(self):
        for row in routers():
            self.assertTrue(row["paper"], row)
            self.assertIn(row["dial"], ("none", "k", "threshold", "capacity", "samples"))
            for name in row["defaults"]:
                self.assertTrue(name.startswith(f"moe.{row['name']}."), name)
        by_name = {row["name"]: row for row in routers()}
        self.assertEqual(by_name["top_p"]["defaults"], {"moe.top_p.threshold": "0.4"})
        self.assertEqual(by_name["top_p"]["dial"], "threshold")
        self.assertIn("moe.capacity_factor=1.25", by_name["switch"]["published"])

    def test_wrong_tables(self):
        self.assert_refused("list", says=["table"])
        self.assert_refused("list", "router", says=["'router'", "did you mean 'routers'?"])


class RouterTest(tool.ToolTest):
    def train_in_halves(self, run, settings, data="text.txt"):
        """Stops the training wherever it is after its first steps, and goes on."""
        process = self.start("train", "tiny.toml", "--data", data, "--out", run, *settings)
        limit = time.monotonic() + tool.TIMEOUT
        metrics = self.folder / run / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 5):
            self.assertLess(time.monotonic(), limit, "nothing happens")
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=tool.TIMEOUT)
        self.assertIn(process.returncode, (0, 128 + signal.SIGINT), stderr.decode(errors="replace"))
        self.run_tool("train", "--resume", run)


class MixtureAttention(RouterTest):
    SETTINGS = sets(model__attention="mixture", model__mixture__layers="[1]", model__mixture__experts=3, train__steps=20)

    def inspect(self, *args):
        return json.loads(self.run_tool("inspect", *args, "--json"))

    def test_trains_resumes_evaluates_and_generates(self):
        for run, more in (("frozen", []), ("learned", sets(moe__router="learned", moe__learned__score="softmax"))):
            with self.subTest(run):
                self.train(run, *self.SETTINGS, *more)
                self.train_in_halves(run + "-in-halves", self.SETTINGS + more)
                runs = [tool.last_checkpoint(self.folder / name) for name in (run, run + "-in-halves")]
                weights = [(checkpoint / "model.safetensors").read_bytes() for checkpoint in runs]
                self.assertEqual(weights[0], weights[1])
                results = json.loads(self.run_tool("eval", run, "--k", "1,4", "--json"))["results"]
                self.assertEqual([row["k"] for row in results], [1, 4])
                self.assertGreater(len(self.run_tool("generate", run, "--prompt", "The ", "--tokens", "5")), 4)
                rows = self.inspect(run, "--k", "1,4")["active"]
                for row, result in zip(rows, results, strict=True):
                    for key in ("active_parameters", "flops_per_token"):
                        self.assertEqual(row[key], result[key])

    def test_inspect_counts_it(self):
        plain, mixture = (self.inspect("tiny.toml", "--k", "4", *settings) for settings in ([], self.SETTINGS))
        more = mixture["parameters"]["total"] - plain["parameters"]["total"]
        # Two more matrices [3·N·P, D] in one of the two layers, three biases, and a router with a bias.
        self.assertEqual(more, 2 * 48 * 16 + 3 * 48 + 3 * 16 + 3)
        active = mixture["active"][0]["active_parameters"] - plain["active"][0]["active_parameters"]
        self.assertEqual(active, 48 + 3 * 16 + 3)
        flops = mixture["active"][0]["flops_per_token"] - plain["active"][0]["flops_per_token"]
        self.assertGreater(flops, 0)
        self.assertGreater(mixture["memory"]["training"]["activations"], plain["memory"]["training"]["activations"])

    def test_refusals(self):
        mixture = sets(model__attention="mixture")
        self.assert_refused("inspect", "tiny.toml", *mixture, *sets(moe__router="thor"), says=["model.attention", "thor"])
        self.assert_refused("inspect", "tiny.toml", *mixture, *sets(moe__router="learned"), says=["model.mixture.k = 1"])
        self.assert_refused("inspect", "tiny.toml", *sets(model__mixture__k=2), says=["model.mixture.k"])


class EveryRouter(RouterTest):
    def test_trains_resumes_evaluates_and_generates(self):
        for row in routers():
            with self.subTest(row["name"]):
                self.one(row)

    def one(self, row):
        name = row["name"]
        settings = sets(moe__router=name, train__steps=30, train__log_every=1)
        for published in PUBLISHED_ALSO.get(name, []) + row["published"]:
            settings += ["--set", published]
        data = "text.txt"
        if row["families"]:
            (self.folder / "other.txt").write_bytes(tool.make_text(seed=8))
            data = tool.make_languages(self.folder, a="text.txt", b="other.txt")
        self.train(name, *settings, data=data)
        halves = f"{name}-in-halves"
        self.train_in_halves(halves, settings, data)
        lines = [(self.folder / run / "metrics.jsonl").read_bytes() for run in (name, halves)]
        self.assertEqual(lines[0], lines[1])
        weights = [(tool.last_checkpoint(self.folder / run) / "model.safetensors").read_bytes() for run in (name, halves)]
        self.assertEqual(weights[0], weights[1])
        rows = [json.loads(line) for line in lines[0].splitlines()]
        for line in rows:
            self.assertTrue(all(value == value for value in line.get("losses", {}).values()), line)
        result = self.evaluate(name)
        self.assertEqual([one["dial"] for one in result], [row["dial"]] * len(result))
        self.assertEqual(result, self.evaluate(name), "an evaluation must be reproducible")
        self.assertGreater(len(self.run_tool("generate", name, "--prompt", "The ", "--tokens", "5")), 4)
        self.run_tool("report", name)

    def evaluate(self, run, *args):
        results = json.loads(self.run_tool("eval", run, "--split", "valid", "--tokens", "200", "--json", *args))["results"]
        for row in results:
            row.pop("tokens_per_second")
        return results


class Dials(tool.ToolTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = cls.make_folder()
        for name in ("top_p", "switch", "random_frozen"):
            done = cls.call("train", "tiny.toml", "--data", "text.txt", "--out", name,
                            *sets(moe__router=name, train__steps=4), folder=cls.shared)
            assert done.returncode == 0, done.stderr

    def setUp(self):
        self.folder = self.shared

    def test_a_threshold(self):
        out = json.loads(self.run_tool("eval", "top_p", "--dial", "0.1,0.5,1", "--split", "valid", "--json"))
        rows = out["results"]
        self.assertEqual([row["value"] for row in rows], [0.1, 0.5, 1.0])
        active = [row["mean_active_experts"] for row in rows]
        self.assertEqual(active, sorted(active))
        self.assertEqual((active[0], active[2]), (1, 4))
        self.assertNotIn("k", rows[0])
        flops = [row["flops_per_token"] for row in rows]
        self.assertLess(flops[0], flops[2])
        # Without --dial the recipe's threshold.
        alone = json.loads(self.run_tool("eval", "top_p", "--split", "valid", "--json"))["results"]
        self.assertEqual([row["value"] for row in alone], [None])
        self.run_tool("eval", "top_p", "--dial", "0.5", "--split", "valid")
        self.run_tool("generate", "top_p", "--dial", "1", "--prompt", "a", "--tokens", "3")
        page = (self.folder / "top_p" / "report.html")
        self.run_tool("report", "top_p")
        self.assertIn("threshold 0.5", page.read_text())

    def test_the_wrong_dial(self):
        self.assert_refused("eval", "top_p", "--k", "2", says=["--k", "threshold", "--dial"])
        self.assert_refused("eval", "random_frozen", "--dial", "2", says=["--dial", "--k"])
        self.assert_refused("eval", "switch", "--k", "2", says=["--k", "without a dial"])
        self.assert_refused("eval", "top_p", "--dial", "half", says=["--dial", "'half'", "number"])
        self.assert_refused("eval", "top_p", "--dial", "1.5", says=["threshold", "1.5"])
        self.assert_refused("generate", "top_p", "--k", "2", "--prompt", "a", says=["--k", "--dial"])


class Recipes(tool.ToolTest):
    def refuse(self, *args, says):
        self.assert_refused("train", "tiny.toml", "--data", "text.txt", "--out", "run", *args, says=says)
        self.assertFalse((self.folder / "run").exists())

    def test_settings_of_another_kind(self):
        self.refuse(*sets(moe__top_p__threshold=0.5), says=["moe.top_p.threshold", "moe.router", '"random_frozen"'])
        self.refuse(*sets(moe__router="top_p", moe__top_p__treshold=0.5), says=["did you mean 'moe.top_p.threshold'?"])
        self.refuse(*sets(moe__router="top_p", moe__top_p__threshold=0), says=["moe.top_p.threshold", "greater than 0"])
        recipe = (self.folder / "run.toml")
        recipe.write_text((self.folder / "tiny.toml").read_text() + "\n[moe.hash]\nby = \"position\"\n")
        line = len(recipe.read_text().splitlines())
        self.assert_refused("settings", "run.toml", says=[f"run.toml:{line}", "moe.hash.by"])

    def test_a_loss_needs_probabilities(self):
        self.refuse(*sets(moe__router="hash", losses__balance=0.1), says=["[losses]", "'hash'"])

    def test_a_router_by_languages_needs_them(self):
        self.refuse(*sets(moe__router="post_moe"), says=["'post_moe'", "text.txt", "--data", "table of languages"])
        self.refuse(*sets(moe__router="post_moe", spawn__at=0.5), says=["spawn.at = 0.5", "'post_moe'"])

    def test_combinations_that_cannot_be(self):
        self.refuse(*sets(moe__network_share=0.5), says=["moe.network_share", "moe.null_experts"])
        self.refuse(*sets(moe__null_experts=4), says=["moe.experts = 4", "leaves no network"])
        self.refuse(*sets(model__ffn_dropout="concrete"), says=["model.ffn_dropout", "model.moe_layers"])
        self.refuse(*sets(moe__router="learned", losses__device_balance=0.1, losses__devices=3),
                    says=["losses.devices = 3", "moe.experts = 4"])

    def test_active_experts_are_networks(self):
        self.train("run", *sets(moe__router="adamoe", moe__experts=8, moe__null_experts=4, train__steps=4))
        some, all_of_them = json.loads(self.run_tool("eval", "run", "--k", "2,8", "--split", "valid", "--json"))["results"]
        self.assertLess(some["mean_active_experts"], 2)
        self.assertEqual(all_of_them["mean_active_experts"], 4)
        networks = all_of_them["mean_active_experts"] - some["mean_active_experts"]
        flops = all_of_them["flops_per_token"] - some["flops_per_token"]
        self.assertAlmostEqual(flops, 2 * networks * 2 * 2 * 16 * 16, places=3)  # two layers, two matrices each

    def test_dense_baselines(self):
        for kind in ("concrete", "drop_block", "expert"):
            self.train(kind, *sets(model__moe_layers="none", model__ffn_dropout=kind, train__steps=4, train__log_every=1))
            self.run_tool("eval", kind, "--split", "valid")
            self.assertEqual("concrete" in self.metrics(kind)[0].get("losses", {}), kind == "concrete")

    def metrics(self, run):
        lines = (self.folder / run / "metrics.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if "split" not in line]

    def test_losses_are_reported_apart(self):
        short = sets(moe__router="learned", train__steps=4, train__log_every=1)
        self.train("run", *short, *sets(losses__balance=0.5, losses__z=0.01))
        self.train("plain", *short)
        with_losses, plain = self.metrics("run"), self.metrics("plain")
        self.assertEqual(set(with_losses[0]["losses"]), {"balance", "z"})
        self.assertGreaterEqual(with_losses[0]["losses"]["balance"], 1.9)  # two layers, each 1 at balance
        self.assertNotIn("losses", plain[0])
        # The task's loss is the task's alone; what is learnt from the others shows from the second step on.
        self.assertEqual(with_losses[0]["loss"], plain[0]["loss"])
        self.assertNotEqual(with_losses[0]["grad_norm"], plain[0]["grad_norm"])
        self.assertNotEqual(with_losses[3]["loss"], plain[3]["loss"])

    def test_micro_batches_share_the_losses(self):
        short = sets(moe__router="switch", moe__switch__jitter=0, model__dropout=0, train__steps=2, train__log_every=1,
                     losses__z=0.5, losses__entropy=0.5)
        self.train("one", *short)
        self.train("two", *short, *sets(train__accumulate=2))
        one, two = self.metrics("one")[0], self.metrics("two")[0]
        for name in ("z", "entropy"):
            self.assertAlmostEqual(one["losses"][name], two["losses"][name], places=4)
        self.assertAlmostEqual(one["grad_norm"], two["grad_norm"], places=3)


if __name__ == "__main__":
    unittest.main()
