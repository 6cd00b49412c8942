#!/usr/bin/env python3
"""smoe report: the numbers of the logs are in the page, and a browser shows them without an error or a request.

The tests in a browser need chromium (scripts/bootstrap --tests installs it) and are skipped without one.
"""

import html
import json
import math
import re
import shutil
import signal
import time
import unittest

import tool
from browser import Browsing, needs_browser, page_data
from tool import sets

def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "split" not in line], [line for line in lines if "split" in line]


class TwoRuns(tool.ToolTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = cls.make_folder()
        changes = sets(freeze__experts=0.5, average__start=0.5)
        for name, args in (("run", changes), ("dense <b>&amp;", sets(model__moe_layers='"none"', train__steps=20))):
            done = cls.call("train", "tiny.toml", "--data", "text.txt", "--out", name, *args, folder=cls.shared)
            assert done.returncode == 0, done.stderr
            done = cls.call("eval", name, *([] if "dense" in name else ["--k", "all"]), folder=cls.shared)
            assert done.returncode == 0, done.stderr
        done = cls.call("report", "run", "dense <b>&amp;", "-o", "both.html", folder=cls.shared)
        assert done.returncode == 0, done.stderr

    def setUp(self):
        self.folder = self.shared


class Report(TwoRuns):
    def test_numbers_are_those_of_the_logs(self):
        data = page_data((self.folder / "both.html").read_text())
        run, dense = data["runs"]
        for record, name in ((run, "run"), (dense, "dense <b>&amp;")):
            steps, valid = metrics(self.folder / name)
            self.assertEqual(record["name"], name)
            self.assertTrue(record["finished"])
            for key in ("step", "tokens", "loss", "bpc", "k", "lr", "grad_norm"):
                self.assertEqual(record["training"][key], [line[key] for line in steps], key)
            for series in record["valid"]:
                split = "valid_average" if series["averaged"] else "valid"
                own = [line["bpc"] for line in valid if line["split"] == split and line["k"] == series["k"]]
                self.assertEqual(series["bpc"], own)
            self.assertEqual({series["averaged"] for series in record["valid"]}, {False, True} if name == "run" else {False})
            self.assertEqual(record["frozen"], steps[-1].get("frozen", {}))
            loads = [[line["layers"][layer]["load"] for line in steps] for layer in range(len(record["load"]["layers"]))]
            for layer, columns in enumerate(record["load"]["layers"]):
                for shown, logged in zip(columns, loads[layer], strict=True):
                    for a, b in zip(shown, logged, strict=True):
                        self.assertAlmostEqual(a, b, delta=1e-4)
        self.assertEqual([row["k"] for row in run["evaluations"][0]["rows"]], [1, 2, 3, 4])
        self.assertEqual([row["k"] for row in dense["evaluations"][0]["rows"]], [None])
        self.assertEqual(dense["load"]["layers"], [])
        self.assertIn(["train.steps", ["40", "20"]], data["differences"])

    def test_evaluations_are_kept(self):
        logged = [json.loads(line) for line in (self.folder / "run" / "evaluations.jsonl").read_text().splitlines()]
        document = json.loads(self.run_tool("eval", "run", "--k", "2", "--json"))
        again = [json.loads(line) for line in (self.folder / "run" / "evaluations.jsonl").read_text().splitlines()]
        self.assertEqual(again[:-1], logged)
        self.assertEqual(again[-1], document)
        self.run_tool("eval", document["model"], "--k", "2")  # a checkpoint is not written to, nor is its run
        self.assertEqual(len((self.folder / "run" / "evaluations.jsonl").read_text().splitlines()), len(again))

    def test_defaults_and_refusals(self):
        self.assertEqual(self.run_tool("report", "run"), b"run/report.html\n")
        self.assertIn(b"<!doctype html>", (self.folder / "run" / "report.html").read_bytes())
        self.assert_refused("report", "run", "dense <b>&amp;", says=["-o FILE"])
        self.assert_refused("report", "run", "run/", "-o", "x.html", says=["is named twice"])
        self.assert_refused("report", "text.txt", says=["no such run"])
        self.assert_refused("report", "run", "--every", "0", says=["--every"])
        self.assert_refused("report", "run", "-o", "no/such/folder.html", says=["no/such"])

    def test_watch_follows_a_run_to_its_end(self):
        self.folder = self.make_folder()
        self.train("run", *sets(train__steps=20))
        page = self.folder / "run" / "report.html"
        # As the run was before it ended.
        kept = [line for line in (self.folder / "run" / "metrics.jsonl").read_text().splitlines(True)]
        index = (self.folder / "run" / "checkpoints").rename(self.folder / "away")
        (self.folder / "run" / "metrics.jsonl").write_text("".join(kept[:4]) + kept[4][:20])
        watch = self.start("report", "run", "--watch", "--every", "1")
        end = time.monotonic() + tool.TIMEOUT
        while not page.exists() and time.monotonic() < end:
            time.sleep(0.05)
        self.assertIn('data-refresh="1"', page.read_text())
        self.assertEqual(page_data(page.read_text())["runs"][0]["step"], json.loads(kept[3])["step"])
        (self.folder / "run" / "metrics.jsonl").write_text("".join(kept))
        index.rename(self.folder / "run" / "checkpoints")
        self.assertEqual(watch.wait(tool.TIMEOUT), 0)
        self.assertIn('data-refresh="0"', page.read_text())
        self.assertTrue(page_data(page.read_text())["runs"][0]["finished"])

    def test_watch_ends_with_a_signal(self):
        self.folder = self.make_folder()
        self.train("run", *sets(train__steps=20))
        shutil.rmtree(self.folder / "run" / "checkpoints")
        page = self.folder / "run" / "report.html"
        watch = self.start("report", "run", "--watch", "--every", "60")
        end = time.monotonic() + tool.TIMEOUT
        while not page.exists() and time.monotonic() < end:
            time.sleep(0.05)
        watch.send_signal(signal.SIGINT)
        self.assertEqual(watch.wait(tool.TIMEOUT), 0)
        self.assertIn('data-refresh="0"', page.read_text())


@needs_browser
class ReportInABrowser(Browsing, TwoRuns):
    def test_a_request_would_be_seen(self):
        page = (self.folder / "both.html").read_text()
        self.assertIn("default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\"", page)
        (self.folder / "asks.html").write_text(page.replace("<main", '<img src="http://localhost/x.png" alt=""><main', 1))
        console, _ = self.console_and_dom(f"file://{self.folder}/asks.html")
        self.assertIn("Content Security Policy", " ".join(console))

    def column(self, rows, name):
        return [row[rows[0].index(name)] for row in rows[1:] if row[rows[0].index(name)]]

    def assert_near(self, texts, numbers):
        self.assertEqual(len(texts), len(numbers))
        for text, number in zip(texts, numbers):
            self.assertTrue(math.isclose(float(text), number, rel_tol=1e-5), f"{text} is not {number}")

    def test_tables_hold_the_numbers(self):
        dom = self.browse(f"file://{self.folder}/both.html#tables")
        steps, valid = metrics(self.folder / "run")
        rows = self.rows(dom, "Bits per token")
        self.assert_near(self.column(rows, "run: training"), [line["bpc"] for line in steps])
        self.assert_near(self.column(rows, "run: valid, k = 4"), [line["bpc"] for line in valid if line["k"] == 4 and line["split"] == "valid"])
        self.assert_near(self.column(rows, "run: valid, averaged weights, k = 4"),
                         [line["bpc"] for line in valid if line["k"] == 4 and line["split"] == "valid_average"])
        frozen = metrics(self.folder / "run")[0][-1]["frozen"]["experts"]
        self.assertIn(f"run: experts frozen from step {frozen}.", dom)
        self.assert_near(self.column(self.rows(dom, "Active experts k"), "run: k"), [line["k"] for line in steps])
        self.assert_near(self.column(self.rows(dom, "Gradient norm"), "run: gradient norm"), [line["grad_norm"] for line in steps])
        evaluated = page_data((self.folder / "both.html").read_text())["runs"][0]["evaluations"][0]["rows"]
        curve = self.rows(dom, "Bits per token at each k")
        self.assert_near(self.column(curve, "run: every k"), [row["bpc"] for row in evaluated])
        self.assertIn(["train.steps", "40", "20"], self.rows(dom, "Where the recipes differ"))
        entropy = self.rows(dom, "run: Entropy of the router's probabilities")
        self.assert_near(self.column(entropy, "layer 1"), [line["layers"][1]["entropy"] for line in steps])
        load = self.rows(dom, "run, layer 0: share of the assignments")
        self.assert_near(load[-1][1:], [round(share, 4) for share in steps[-1]["layers"][0]["load"]])

    def test_charts_have_names_and_tables(self):
        dom = self.browse(f"file://{self.folder}/both.html")
        charts = re.findall(r'<(?:div|canvas)[^>]* role="img"[^>]*>', dom)
        self.assertGreaterEqual(len(charts), 10)
        for chart in charts:
            self.assertRegex(chart, r'aria-label="[^"]{20,}')
        figures = re.findall(r"<figure.*?</figure>", dom, re.S)
        self.assertEqual([figure[:40] for figure in figures if 'data-table=""' not in figure], [])
        self.assertGreaterEqual(len(re.findall('<div class="u-wrap"', dom)), 8)
        self.assertNotIn("<b>&amp;amp;", dom.split("<main")[1].split("<script")[0])  # the run's name is no markup
        self.assertIn("dense &lt;b&gt;&amp;amp;", dom)
        ids = re.findall(r'<[^>]* id="([^"]*)"', dom)
        self.assertEqual(len(ids), len(set(ids)))

    def test_one_run_not_evaluated_and_one_not_begun(self):
        self.folder = self.make_folder()
        self.train("new", *sets(train__steps=4))
        begun = self.folder / "begun"
        begun.mkdir()
        shutil.copy(self.folder / "new" / "recipe.toml", begun)
        self.run_tool("report", "new")
        self.assertIn("smoe eval new --k all", self.browse(f"file://{self.folder}/new/report.html#tables"))
        self.run_tool("report", "begun")
        self.assertIn("begun has logged nothing yet.", self.browse(f"file://{self.folder}/begun/report.html#tables"))

    def test_fits_a_phone(self):
        # A window is never that narrow here, so that the page stands in a frame, which says how wide it has become.
        page = (self.folder / "both.html").read_text()
        frame = self.folder / "frame.html"
        frame.write_text(f'<!doctype html><iframe style="width:360px;height:700px;border:0" srcdoc="{html.escape(page)}"></iframe>'
                         "<script>onload = () => { const page = document.querySelector('iframe').contentDocument.documentElement;"
                         "document.title = `${page.scrollWidth} of ${page.clientWidth}`; }</script>")
        needed, there = re.search("<title>(.*) of (.*)</title>", self.browse(f"file://{frame}")).groups()
        self.assertEqual(needed, there)
        self.assertLessEqual(int(there), 360)

    def test_both_themes_are_readable(self):
        # The contrast of text and paper, as WCAG 2 counts it: at least 4.5.
        def luminance(code):
            parts = [int(code[i:i + 2], 16) / 255 for i in (1, 3, 5)]
            linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        css = (tool.SOURCE / "smoe" / "study" / "page.css").read_text()
        for theme in (r":root \{(.*?)\}", r':root\[data-theme="dark"\] \{(.*?)\}'):
            colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", re.search(theme, css, re.S)[1]))
            for text, least in (("ink", 7), ("ink-soft", 4.5), ("accent", 4.5), *((f"c{i}", 3) for i in range(8))):
                for paper in ("paper", "panel"):
                    a, b = sorted((luminance(colors[text]), luminance(colors[paper])))
                    self.assertGreaterEqual((b + 0.05) / (a + 0.05), least, f"{text} on {paper} in {theme}")


if __name__ == "__main__":
    unittest.main()
