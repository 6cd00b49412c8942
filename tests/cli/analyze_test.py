#!/usr/bin/env python3
"""smoe analyze: its statistics are those of the model's routing, and a browser shows them without an error or a request."""

import html
import json
import re
import unittest

import tool
from browser import Browsing, needs_browser, page_data
from tool import sets


class Models(tool.ToolTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = cls.make_folder()
        for name, args in (("run", []), ("capped <b>&amp;", sets(moe__router="learned", moe__capacity_factor=1, optimizer__lr="1e-3")),
                           ("dense", sets(model__moe_layers='"none"')), ("top_p", sets(moe__router="top_p"))):
            done = cls.call("train", "tiny.toml", "--data", "text.txt", "--out", name, *args, folder=cls.shared)
            assert done.returncode == 0, done.stderr
        done = cls.call("analyze", "run", "capped <b>&amp;", "-o", "both.html", folder=cls.shared)
        assert done.returncode == 0, done.stderr
        cls.checkpoints = [str(path.relative_to(cls.shared)) for path in sorted((cls.shared / "capped <b>&amp;" / "checkpoints").iterdir()) if path.is_dir()]

    def setUp(self):
        self.folder = self.shared

    def analyze(self, *args):
        return json.loads(self.run_tool("analyze", *args, "--json"))


class Analyze(Models):
    def test_every_expert_is_taken_where_k_is_all(self):
        data = self.analyze("run", "--k", "4", "--tokens", "500")
        trace, = data["traces"]
        self.assertEqual(data["format"], "smoe-analysis")
        self.assertEqual((trace["name"], trace["setting"], trace["step"]), ("run", "k = 4", 40))
        self.assertLessEqual(trace["tokens"], 500)
        self.assertEqual([layer["layer"] for layer in trace["layers"]], [0, 1])
        for layer in trace["layers"]:
            self.assertEqual(layer["load"], [0.25] * 4)
            self.assertEqual((layer["experts_per_token"], layer["networks_per_token"], layer["dropped"]), (4, 4, 0))
            self.assertAlmostEqual(layer["token_information"]["bits"], 0, places=9)
            self.assertAlmostEqual(layer["token_information"]["entropy"], 2, places=9)
            self.assertEqual(sum(row["tokens"] for row in layer["classes"]), trace["tokens"])
        self.assertEqual([len(row) for row in trace["layers"][0]["affinity"]["follows"]], [4] * 4)
        self.assertIsNone(trace["layers"][1]["affinity"])

    def test_the_small_k_is_meant_where_nobody_says(self):
        self.assertEqual(self.analyze("run")["traces"][0]["setting"], "k = 2")
        self.assertEqual(self.analyze("top_p")["traces"][0]["setting"], "")
        self.assertEqual(self.analyze("top_p", "--dial", "0.25")["traces"][0]["setting"], "threshold = 0.25")

    def test_classes_are_those_of_the_text(self):
        text = (self.folder / "text.txt").read_bytes()
        classes = self.analyze("run", "--split", "train", "--tokens", "0")["traces"][0]["layers"][0]["classes"]
        self.assertEqual([row["class"] for row in classes], ["letters", "blanks", "punctuation"])
        letters, blanks, dots = (row["tokens"] / len(text[:36000]) for row in classes)
        self.assertAlmostEqual(letters, sum(byte in b"abcdefghijklmnopqrstuvwxyz" for byte in text[:36000]) / 36000, delta=1e-3)
        self.assertAlmostEqual(blanks, sum(byte in b" \n" for byte in text[:36000]) / 36000, delta=1e-3)
        self.assertAlmostEqual(dots, sum(byte in b"." for byte in text[:36000]) / 36000, delta=1e-3)

    def test_drops_come_late_in_the_forward(self):
        layers = self.analyze("capped <b>&amp;")["traces"][0]["layers"]
        buckets = [bucket for layer in layers for bucket in layer["drops"]["forward"]]
        rate = lambda part: sum(bucket["dropped"] for bucket in part) / sum(bucket["assigned"] for bucket in part)  # noqa: E731
        last = max(bucket["last"] for bucket in buckets)
        early, late = ([bucket for bucket in buckets if (bucket["first"] > last / 2) == is_late] for is_late in (False, True))
        self.assertGreater(rate(late), rate(early))
        for layer in layers:
            for drops in layer["drops"].values():
                share = sum(row["dropped"] for row in drops) / sum(row["assigned"] for row in drops)
                self.assertAlmostEqual(share, layer["dropped"], places=12)

    def test_checkpoints_of_a_run_agree_more_than_by_chance(self):
        self.assertGreater(len(self.checkpoints), 1)
        data = self.analyze(*self.checkpoints)
        self.assertEqual(len(data["agreement"]), len(self.checkpoints) * (len(self.checkpoints) - 1) // 2)
        for pair in data["agreement"]:
            self.assertIsNone(pair["reason"])
            for layer in pair["layers"]:
                self.assertGreater(layer["overlap"], layer["chance"])
                self.assertLessEqual(layer["overlap"], 1)
        self.assertIn(b"agree (by chance):", self.run_tool("analyze", *self.checkpoints))

    def test_a_trace_says_what_the_model_says(self):
        self.run_tool("analyze", "run", "--trace", "kept.safetensors")
        data, again = self.analyze("run"), self.analyze("kept.safetensors")
        self.assertEqual(data["traces"][0] | {"name": ""}, again["traces"][0] | {"name": ""})
        pair, = self.analyze("run", "kept.safetensors")["agreement"]
        self.assertEqual([layer["overlap"] for layer in pair["layers"]], [1, 1])
        pair, = self.analyze("run", "kept.safetensors", "--tokens", "40")["agreement"]
        self.assertIn("tokens", pair["reason"])

    def test_refusals(self):
        self.assert_refused("analyze", "dense", says=["dense: is a dense model and routes nothing"])
        self.assert_refused("analyze", "nowhere", says=["nowhere: no such run"])
        self.assert_refused("analyze", "text.txt", says=["text.txt: "])
        self.assert_refused("analyze", "run", "run", says=["run: is named twice"])
        self.assert_refused("analyze", "run", "--k", "5", says=["--k: 5 is outside 1 to 4"])
        self.assert_refused("analyze", "run", "--dial", "0.5", says=["--dial: run has the dial k"])
        self.assert_refused("analyze", "top_p", "--k", "1", says=["--k: top_p has the dial threshold"])
        self.assert_refused("analyze", "run", "top_p", "--trace", "x", says=["--trace takes one model, got 2"])
        self.assert_refused("analyze", "run", "--split", "tset", says=["did you mean 'test'"])
        self.assert_refused("analyze", "run", "--tokens", "-1", says=["--tokens must be 0 or more"])
        self.assert_refused("analyze", "run", "-o", "no/such/page.html", says=["no/such"])


@needs_browser
class AnalysisInABrowser(Browsing, Models):
    def test_tables_hold_the_numbers(self):
        dom = self.browse(f"file://{self.folder}/both.html#tables")
        data = page_data((self.folder / "both.html").read_text())
        run = data["traces"][0]
        rows = self.rows(dom, "Mutual information of token id and expert")
        self.assertEqual(rows[0][:2], ["layer", "run: bits"])
        for row, layer in zip(rows[1:], run["layers"], strict=True):
            self.assertAlmostEqual(float(row[1]), layer["token_information"]["bits"], places=4)
        follows = self.rows(dom, "run: who follows whom, layer 0 to 1")
        self.assertEqual([[float(cell) for cell in row[1:]] for row in follows[1:]], run["layers"][0]["affinity"]["follows"])
        agreement = self.rows(dom, "Agreement, and by chance")
        overlap = data["agreement"][0]["layers"][0]["overlap"]
        self.assertTrue(agreement[1][2].startswith(f"{overlap:.3f} ("), agreement)
        classes = self.rows(dom, "Experts a token by class, after drops")
        self.assertEqual([row[1] for row in classes[1:4]], ["letters", "blanks", "punctuation"])
        self.assertIn("Dropped by place in the row", html.unescape(dom))

    def test_charts_have_names_and_tables(self):
        self.run_tool("analyze", *self.checkpoints, "-o", "steps.html")
        for page, charts in (("both.html", 10), ("steps.html", 10)):
            dom = self.browse(f"file://{self.folder}/{page}")
            found = re.findall(r'<(?:div|canvas)[^>]* role="img"[^>]*>', dom)
            self.assertGreaterEqual(len(found), charts)
            for chart in found:
                self.assertRegex(chart, r'aria-label="[^"]{20,}')
            figures = re.findall(r"<figure.*?</figure>", dom, re.S)
            self.assertEqual([figure[:40] for figure in figures if 'data-table=""' not in figure], [])
            ids = re.findall(r'<[^>]* id="([^"]*)"', dom)
            self.assertEqual(len(ids), len(set(ids)))
        self.assertNotIn("<b>&amp;amp;", self.browse(f"file://{self.folder}/both.html").split("<main")[1].split("<script")[0])

    def test_one_model_and_a_phone(self):
        self.run_tool("analyze", "run", "-o", "one.html")
        self.assertIn("Agreement is of two models", self.browse(f"file://{self.folder}/one.html#tables"))
        page = (self.folder / "both.html").read_text()
        frame = self.folder / "frame.html"
        frame.write_text(f'<!doctype html><iframe style="width:360px;height:700px;border:0" srcdoc="{html.escape(page)}"></iframe>'
                         "<script>onload = () => { const page = document.querySelector('iframe').contentDocument.documentElement;"
                         "document.title = `${page.scrollWidth} of ${page.clientWidth}`; }</script>")
        needed, there = re.search("<title>(.*) of (.*)</title>", self.browse(f"file://{frame}")).groups()
        self.assertEqual(needed, there)


if __name__ == "__main__":
    unittest.main()
