#!/usr/bin/env python3
"""tools/reproduce, which scripts/reproduce calls: its tables say what was found. What is found, is not tested."""

import json
import subprocess
import sys
import unittest
import xml.etree.ElementTree

import tool

ENTRIES = ["dense", "depth", "experts", "learned", "plateau", "schedules"]


class Reproduce(tool.ToolTest):
    def call_tool(self, name, *args):
        environment = {**self.environment(), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run([sys.executable, tool.SOURCE / "tools" / "reproduce" / name, *args], cwd=self.folder,
                              env=environment, timeout=5 * tool.TIMEOUT, capture_output=True, text=True, check=False)

    def say(self, name, *args):
        done = self.call_tool(name, *args)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def refuse(self, name, *args, says):
        done = self.call_tool(name, *args)
        self.assertNotEqual(done.returncode, 0)
        self.assertNotIn("Traceback", done.stderr)
        self.assertIn(says, done.stderr)

    def run_of(self, router, seed, dial, bpcs, active=lambda value: value or 0, **more):
        return {"router": router, "seed": seed, "tokens": 600, **more,
                "results": [{"dial": dial, "value": value, "bpc": bpc, "mean_active_experts": active(value),
                             "flops_per_token": 5e6} for value, bpc in bpcs.items()]}

    def write(self, *runs, **more):
        document = {"format": "smoe-compare", "version": 1, "title": "Some", "split": "test",
                    "data": {"path": "text", "sha256": "ab12"}, "runs": runs, **more}
        (self.folder / "results.json").write_text(json.dumps(document))

    def test_a_table(self):
        self.write(self.run_of("few", 1, "k", {1: 3.0, 2: 2.5}), self.run_of("few", 2, "k", {1: 3.2, 2: 2.5}),
                   self.run_of("many", 1, "k", {2: 2.0, 4: 1.75}), self.run_of("dense", 1, "none", {None: 1.5}))
        lines = self.say("table", "results.json").splitlines()
        self.assertEqual(lines[:6], [
            "|  | k = 1 | k = 2 | k = 4 | all on |",
            "| --- | ---: | ---: | ---: | ---: |",
            "| few | 3.100 ± 0.141 | 2.500 ± 0.000 |  | 2.500 ± 0.000 |",
            "| many |  | 2.000 | 1.750 | 1.750 |",
            "| dense |  |  |  | 1.500 |",
            "",
        ])
        self.assertIn("bpc of the test split", lines[6])
        self.assertIn("seeds 1, 2; 600 tokens a run; text SHA-256 ab12; commit ", lines[6])

    def test_a_table_of_several_dials(self):
        self.write(self.run_of("dense", 1, "none", {None: 2.75}),
                   self.run_of("top", 1, "threshold", {0.5: 2.0, 1: 2.5}, lambda value: 8 * value, entropy=1.25),
                   self.run_of("top", 2, "threshold", {0.5: 2.2, 1: 2.5}, lambda value: 8 * value, entropy=1.75),
                   self.run_of("few", 1, "k", {1: 3.0, 2: 2.5}, load_max_over_mean=1.5, dropped=0.0))
        self.assertEqual(self.say("table", "results.json").splitlines()[2:5], [
            "| top | 2 | threshold = 0.5 | 2.100 ± 0.141 | 1: 2.500 ± 0.000 | 4 | 5.00 M |  |  | 1.5 |",
            "| few | 1 | k = 2 | 2.500 | 2: 2.500 | 2 | 5.00 M | 1.5 | 0 |  |",
            "| dense | 1 | – | 2.750 |  | 0 | 5.00 M |  |  |  |",
        ])

    def test_a_curve(self):
        self.write(self.run_of("few", 1, "k", {1: 3.0, 4: 2.5}), self.run_of("few", 2, "k", {1: 3.2, 4: 2.5}),
                   self.run_of("dense <1>", 1, "none", {None: 2.75}))
        root = xml.etree.ElementTree.fromstring(self.say("curve", "results.json", "few", "dense <1>"))
        self.assertEqual([title.text for title in root.iterfind(".//{*}title")],
                         ["few, 1 active: 3.100 ± 0.141", "few, 4 active: 2.500 ± 0.000", "dense <1>: 2.750 ± 0.000"])
        first, last = root.iterfind(".//{*}circle")
        self.assertLess(float(first.get("cx")), float(last.get("cx")))
        self.assertLess(float(first.get("cy")), float(last.get("cy")), "a lower bpc stands lower")
        self.refuse("curve", "results.json", "none", says="no entry 'none'; there are dense <1>, few")
        self.refuse("curve", "nowhere.json", "few", says="nowhere.json")

    def test_of_a_real_comparison(self):
        (self.folder / "plan.toml").write_text(
            'title = "Two"\nbase = "tiny.toml"\nseeds = 2\n[eval]\nk = "1,4"\n[entry.moe]\nsummary = "experts"\n[entry.dense]\neval.k = ""\n'
            'model.moe_layers = "none"\n')
        self.run_tool("compare", "plan.toml", "--data", "text.txt", "--tokens", "200", "-o", "two")
        runs = json.loads((self.folder / "two" / "results.json").read_text())["runs"]
        lines = self.say("table", "two/results.json").splitlines()
        bpcs = [result["bpc"] for run in runs if run["router"] == "moe" for result in run["results"] if result["value"] == 4]
        self.assertEqual(len(bpcs), 2)
        self.assertTrue(lines[2].startswith("| moe | "), lines)
        self.assertIn(f"| {sum(bpcs) / 2:.3f} ± ", lines[2])
        self.assertTrue(lines[3].startswith("| dense |  |  | "), lines)

    def test_what_is_no_comparison(self):
        self.refuse("table", says="takes RESULTS.json")
        self.refuse("table", "nowhere.json", says="nowhere.json")
        (self.folder / "results.json").write_text("{")
        self.refuse("table", "results.json", says="results.json")
        self.write()
        self.refuse("table", "results.json", says="none of any run")

    def test_cost(self):
        text = self.say("cost", tool.binary(), "-o", "out", "--quick", "--rounds", "2")
        self.assertEqual(text, (self.folder / "out" / "cost.md").read_text())
        sizes = json.loads((self.folder / "out" / "cost.json").read_text())["sizes"]
        self.assertEqual([size["name"] for size in sizes], ["two cores", "the paper's"])
        for size in sizes:
            rows = {row["what"]: row for row in size["rows"]}
            dense = rows["dense"]
            self.assertEqual((dense["flops_share"], dense["time_share"]), (1, 1))
            for row in rows.values():
                self.assertAlmostEqual(row["flops_share"] * dense["flops"], row["flops"], delta=1e-6 * row["flops"])
                self.assertAlmostEqual(row["time_share"] * dense["ms"], row["ms"], delta=1e-6 * row["ms"])
                if "least" in row:
                    self.assertTrue(0 < row["least"] <= row["ms"] <= row["most"])
        # FLOPs are a line in k, so a schedule's mean k costs what lies between its ends.
        rows = {row.get("kind") or row["what"]: row for row in sizes[0]["rows"]}
        self.assertAlmostEqual(rows["linear"]["flops"], (rows["k = 2"]["flops"] + rows["k = 16"]["flops"]) / 2, delta=1e-3)
        self.assertLess(rows["cosine"]["flops"], rows["linear"]["flops"])
        self.assertLess(rows["linear"]["flops"], rows["exponential"]["flops"])
        tokens = int(self.say("cost", "--equal-time", "out", "2K"))
        self.assertEqual(tokens, round(2000 * rows["linear"]["time_share"]))

    def test_wrong_words(self):
        self.refuse("cost", says="name the tool")
        self.refuse("cost", "--equal-time", "nowhere", "1M", says="nowhere/cost.json")
        self.refuse("cost", "nowhere/smoe", "-o", "out", says="nowhere/smoe")


class Plans(tool.ToolTest):
    def test_every_plan_can_be_run(self):
        for name in ENTRIES:
            plan = tool.SOURCE / "recipes" / "compare" / f"{name}.toml"
            said = self.run_tool("compare", str(plan), "--data", "text.txt", "--tokens", "1M", "-o", name, "--dry-run")
            self.assertIn(b"--seed 3", said)


class Script(tool.ToolTest):
    def script(self, *args):
        return subprocess.run([tool.SOURCE / "scripts" / "reproduce", *args], cwd=self.folder, timeout=tool.TIMEOUT,
                              capture_output=True, text=True, check=False)

    def test_help(self):
        done = self.script("--help")
        self.assertEqual(done.returncode, 0)
        for name in [*ENTRIES, "cost", "time", "freeze", "all", "--tokens"]:
            self.assertIn(f"  {name} ", done.stdout)

    def test_wrong_words(self):
        for args, says in (([], "which?"), (["nothing"], "nothing called nothing"), (["dense", "--sed", "3"], "--sed"),
                           (["dense", "--seeds", "0"], "--seeds"), (["dense", "--data", "nowhere"], "nowhere"),
                           (["dense", "-o"], "-o takes a value")):
            done = self.script(*args)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(says, done.stderr)


if __name__ == "__main__":
    unittest.main()
