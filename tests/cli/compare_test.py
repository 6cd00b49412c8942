#!/usr/bin/env python3
"""smoe compare: runs of every entry and seed, cut off and gone on with, and what is said about them."""

import json
import signal
import statistics
import time
import unittest

import tool
from browser import Browsing, needs_browser, page_data

PLAN = """
title = "Schedules & <sizes>"
base = "tiny.toml"
seeds = 2
[eval]
k = "1,4"
[entry.linear]
summary = "k grows"
[entry.constant]
k_schedule.kind = "constant"
[entry.dense]
seeds = 1
eval.k = ""
model.moe_layers = "none"
"""


class CompareTest(tool.ToolTest):
    @classmethod
    def make_folder(cls):
        folder = super().make_folder()
        (folder / "plan.toml").write_text(PLAN)
        return folder


class Finished(CompareTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = cls.make_folder()
        done = cls.call("compare", "plan.toml", "--data", "text.txt", "--tokens", "1K", "-o", "out", "--jobs", "2", folder=cls.shared)
        assert done.returncode == 0, done.stderr
        cls.table, cls.messages = done.stdout.decode(), done.stderr.decode()

    def setUp(self):
        self.folder = self.shared

    def without_a_bpc(self):
        """The comparison again, with a run whose loss was not finite at k = 4, until the test is over."""
        again = ("compare", "plan.toml", "--data", "text.txt", "--tokens", "1K", "-o", "out")
        path = self.folder / "out" / "runs" / "constant-seed2.eval.json"
        whole = path.read_text()
        self.addCleanup(self.run_tool, *again)
        self.addCleanup(path.write_text, whole)
        evaluation = json.loads(whole)
        evaluation["evaluation"]["results"][1]["bpc"] = None
        path.write_text(json.dumps(evaluation))
        return self.run_tool(*again).decode()


class Compare(Finished):
    def results(self):
        return json.loads((self.folder / "out" / "results.json").read_text())

    def test_every_run_is_there_with_the_numbers_of_eval(self):
        results = self.results()
        self.assertEqual([(run["router"], run["seed"]) for run in results["runs"]],
                         [("linear", 1), ("constant", 1), ("dense", 1), ("linear", 2), ("constant", 2)])
        for run in results["runs"]:
            recipe = (self.folder / run["run"] / "recipe.toml").read_text()
            self.assertIn("steps = 32\n", recipe)  # 1,000 tokens in steps of 32
            self.assertIn(f"seed = {run['seed']}\n", recipe)
            self.assertEqual(run["tokens"], 1024)
            dial = [] if run["router"] == "dense" else ["--k", "1,4"]
            evaluation = json.loads(self.run_tool("eval", run["run"], "--json", *dial))
            self.assertEqual([row["bpc"] for row in run["results"]], [row["bpc"] for row in evaluation["results"]])
            self.assertEqual([row["value"] for row in run["results"]], [row["value"] for row in evaluation["results"]])
            self.assertEqual(run["parameters"], evaluation["parameters"])
            self.assertGreater(run["tokens_per_second"], 0)
            self.assertEqual(run["load_max_over_mean"] is None, run["router"] == "dense")
        self.assertEqual(results["failed"], [])

    def test_load_and_entropy_are_those_of_the_logs(self):
        for run in self.results()["runs"]:
            lines = [json.loads(line) for line in (self.folder / run["run"] / "metrics.jsonl").read_text().splitlines()]
            lines = [line for line in lines if "split" not in line]
            self.assertEqual(run["routing"]["step"], [line["step"] for line in lines] if run["router"] != "dense" else [])
            self.assertEqual(len(run["routing"]["load"]), 0 if run["router"] == "dense" else 2)
            for layer, (loads, entropies) in enumerate(zip(run["routing"]["load"], run["routing"]["entropy"], strict=True)):
                for load, entropy, line in zip(loads, entropies, lines, strict=True):
                    for a, b in zip(load, line["layers"][layer]["load"], strict=True):
                        self.assertAlmostEqual(a, b, delta=1e-4)
                    self.assertAlmostEqual(entropy, line["layers"][layer]["entropy"], places=9)

    def test_a_run_without_a_bpc_is_named(self):
        table = self.without_a_bpc()
        self.assertIn("constant-seed2 has no bpc at k = 4: its loss is not finite\n", table)
        rows = [row for row in self.results()["summary"] if row["router"] == "constant" and row["value"] == 4]
        self.assertEqual([row["bpc_mean"] for row in rows], [None])

    def test_the_summary_is_the_mean_over_seeds(self):
        results = self.results()
        self.assertEqual(len(results["summary"]), 5)
        means = [row["bpc_mean"] for row in results["summary"]]
        self.assertEqual(means, sorted(means))
        for row in results["summary"]:
            bits = [result["bpc"] for run in results["runs"] if run["router"] == row["router"]
                    for result in run["results"] if result["value"] == row["value"]]
            self.assertAlmostEqual(row["bpc_mean"], statistics.mean(bits), places=12)
            if len(bits) > 1:
                self.assertAlmostEqual(row["bpc_sd"], statistics.stdev(bits), places=9)
            else:
                self.assertIsNone(row["bpc_sd"])
        for name in ("linear", "constant", "dense"):
            self.assertEqual(self.table.count(f"\n{name} "), 1, self.table)

    def test_a_second_call_has_nothing_left_to_do(self):
        before = tool.files_under(self.folder / "out" / "runs")
        done = self.call("compare", "plan.toml", "--data", "text.txt", "--tokens", "1K", "-o", "out", "--json", folder=self.folder)
        self.assertEqual(done.returncode, 0)
        self.assertIn(b"5 of 5 runs are done already", done.stderr)
        self.assertEqual(json.loads(done.stdout), self.results())
        self.assertEqual(tool.files_under(self.folder / "out" / "runs"), before)

    def test_refusals(self):
        compare = ("compare", "plan.toml", "--data", "text.txt")
        self.assert_refused(*compare, "-o", "out", "--tokens", "2K",
                            says=["linear-seed1: was begun with other settings, --set train.steps=",
                                  " where there now is --set train.steps="])
        self.assert_refused("compare", "plan.toml", says=["--data"])
        self.assert_refused("compare", "none.toml", "--data", "text.txt", says=["none.toml"])
        self.assert_refused("compare", "plan.toml", "--data", "none.txt", says=["none.txt"])
        self.assert_refused(*compare, "--only", "liner", says=["did you mean 'linear'?"])
        self.assert_refused(*compare, "--tokens", "1K", "--budget", "flops=1e9", says=["one of the two"])
        self.assert_refused(*compare, "--budget", "joules=1", says=["flops=NUMBER"])
        self.assert_refused(*compare, "--budget", "flops=10", says=["less than one step"])
        self.assert_refused(*compare, "--jobs", "0", says=["--jobs"])
        (self.folder / "wrong.toml").write_text(PLAN + "[entry.odd]\nmoe.expert = 3\n")
        self.assert_refused("compare", "wrong.toml", "--data", "text.txt", says=["wrong.toml:", "moe.expert", "did you mean"])
        (self.folder / "spawn.toml").write_text(PLAN + "[entry.odd]\nspawn.at = 0.5\n")
        self.assert_refused("compare", "spawn.toml", "--data", "text.txt", "--budget", "flops=1e9",
                            says=["spawn.at = 0.5", "use --tokens"])
        (self.folder / "many.toml").write_text(PLAN + "[entry.odd]\nk_schedule.max = 9\n")
        self.assert_refused("compare", "many.toml", "--data", "text.txt", says=["entry odd", "k_schedule.max = 9"])


    def test_published_plans_are_whole(self):
        plans = sorted((tool.SOURCE / "recipes" / "compare").glob("*.toml"))
        self.assertGreaterEqual(len(plans), 3)
        data = tool.make_languages(self.folder, x="text.txt")
        for plan in plans:
            lines = self.run_tool("compare", str(plan), "--data", data, "--tokens", "10K", "--dry-run").decode().splitlines()
            self.assertEqual(len(lines) % 2, 0)
            self.assertTrue(all(line.startswith(("smoe train ", "smoe eval ")) for line in lines), lines)
            self.assertIn("--set train.steps=20 ", lines[0])


class Unfinished(CompareTest):
    ARGS = ("compare", "plan.toml", "--data", "text.txt", "--only", "linear", "--seeds", "1", "-o", "out", "--tokens", "60K")

    def begin(self):
        """Starts a comparison whose one run is longer than this test, and waits until it trains."""
        (self.folder / "tiny.toml").write_text((self.folder / "tiny.toml").read_text().replace("checkpoint_every = 7", "checkpoint_every = 200"))
        process = self.start(*self.ARGS)
        log = self.folder / "out" / "runs" / "linear-seed1" / "metrics.jsonl"
        end = time.monotonic() + tool.TIMEOUT
        while not (log.exists() and log.stat().st_size > 0) and time.monotonic() < end:
            time.sleep(0.02)
        self.assertGreater(log.stat().st_size, 0)
        return process

    def test_ctrl_c_saves_and_the_same_command_goes_on(self):
        process = self.begin()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=tool.TIMEOUT)
        self.assertEqual(process.returncode, 130, errors)
        self.assertIn(b"the same command goes on", errors)
        last = tool.last_checkpoint(self.folder / "out" / "runs" / "linear-seed1").name
        self.run_tool(*self.ARGS)
        self.assertLess(int(last.removeprefix("step-")), 1875)
        straight = self.make_folder()
        (straight / "tiny.toml").write_text((self.folder / "tiny.toml").read_text())
        self.run_tool(*self.ARGS, folder=straight)
        same = [json.loads((folder / "out" / "results.json").read_text())["runs"][0]["results"] for folder in (self.folder, straight)]
        self.assertEqual(*same)

    def test_a_killed_comparison_takes_its_runs_with_it(self):
        process = self.begin()
        self.assert_refused(*self.ARGS, says=["another smoe compare is at work"])
        process.kill()
        process.communicate()
        end = time.monotonic() + tool.TIMEOUT  # the run gets SIGTERM, saves and ends, and only then the folder is free
        while time.monotonic() < end:
            again = self.start(*self.ARGS)
            time.sleep(0.3)
            if again.poll() is None:
                break
            self.assertIn(b"another smoe compare", again.communicate()[1])
        else:
            self.fail("the killed comparison still holds its folder")

    def test_a_run_that_fails_is_named_and_the_others_go_on(self):
        (self.folder / "plan.toml").write_text(PLAN + '[entry.wild]\nseeds = 1\noptimizer.lr = 1e28\noptimizer.clip_norm = 1e30\n')
        done = self.call("compare", "plan.toml", "--data", "text.txt", "--only", "wild,dense", "-o", "out", folder=self.folder)
        self.assertEqual(done.returncode, 1, done.stderr)
        results = json.loads((self.folder / "out" / "results.json").read_text())
        self.assertEqual([run["router"] for run in results["runs"]], ["dense"])
        self.assertEqual(results["failed"][0]["run"], "wild-seed1")
        self.assertIn("not finite", results["failed"][0]["reason"])
        self.assertIn(b"wild-seed1: failed", done.stderr)

    def test_budget_in_flops_gives_the_cheaper_more_steps(self):
        (self.folder / "plan.toml").write_text(PLAN.replace('k_schedule.kind = "constant"', 'k_schedule.kind = "constant"\nk_schedule.max = 1'))
        self.run_tool("compare", "plan.toml", "--data", "text.txt", "--only", "linear,constant", "--seeds", "1", "--budget", "flops=100M", "-o", "out")
        steps = {run["router"]: run["tokens"] for run in json.loads((self.folder / "out" / "results.json").read_text())["runs"]}
        self.assertGreater(steps["constant"], steps["linear"])


@needs_browser
class InABrowser(Browsing, Finished):
    def test_the_page_holds_the_numbers_and_asks_for_nothing(self):
        page = self.folder / "out" / "compare.html"
        data = page_data(page.read_text())
        dom = self.browse(f"file://{page}#tables")
        self.assertIn("Schedules &amp; &lt;sizes&gt;", dom)
        rows = self.rows(dom, "Every setting, the lowest bpc first")
        self.assertEqual([row[0] for row in rows[1:]], [row["router"] for row in data["summary"]])
        self.assertEqual([row[2].split()[0] for row in rows[1:]], [f"{row['bpc_mean']:.4f}" for row in data["summary"]])
        best = self.rows(dom, "Results, the lowest bpc first")
        self.assertEqual(len(best), 4)
        self.assertEqual(len(self.rows(dom, "Every run")), 1 + sum(len(run["results"]) for run in data["runs"]))
        mixtures = [run for run in data["runs"] if run["router"] != "dense" and run["seed"] == 1]
        self.assertEqual(dom.count('role="img"'), 2 + 3 * len(mixtures))  # two maps of load and a chart of entropy
        for run in mixtures:
            load = self.rows(dom, f"{run['router']}, seed 1, layer 1: share of the assignments")
            self.assertEqual([float(share) for share in load[-1][1:]], run["routing"]["load"][1][-1])
            entropy = self.rows(dom, f"{run['router']}, seed 1: entropy of the router's probabilities")
            self.assertAlmostEqual(float(entropy[-1][2]), run["routing"]["entropy"][1][-1], places=4)

    def test_a_run_without_a_bpc_has_its_place(self):
        self.without_a_bpc()
        dom = self.browse(f"file://{self.folder}/out/compare.html#tables")
        rows = self.rows(dom, "Every setting, the lowest bpc first")
        self.assertEqual([row[:3] for row in rows[-1:]], [["constant", "k = 4", "–"]])
        self.assertIn("constant-seed2 has no bpc at k = 4", dom)


if __name__ == "__main__":
    unittest.main()
