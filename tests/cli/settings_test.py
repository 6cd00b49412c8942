#!/usr/bin/env python3
"""smoe settings, --help and --version; docs/config.md and the recipes of the checkout."""

import re
import unittest

import tool

VERBS = ("train", "eval", "generate", "inspect", "slim", "upcycle", "report", "compare", "settings", "bench", "list")


class Settings(tool.ToolTest):
    def test_config_md_is_up_to_date(self):
        expected = self.run_tool("settings", "--markdown").decode()
        found = (tool.SOURCE / "docs" / "config.md").read_text()
        self.assertEqual(found, expected, "run: build/release/smoe settings --markdown > docs/config.md")

    def test_every_key_is_listed(self):
        listed = self.run_tool("settings").decode()
        for key in ("model.layers", "moe.experts", "k_schedule.kind", "data.format", "train.steps", "optimizer.lr"):
            self.assertRegex(listed, f"(?m)^{re.escape(key)} +\\S+ +\\S")

    def test_recipes(self):
        # recipes/compare holds plans of comparisons, which compare_test.py looks at.
        recipes = sorted(path for path in (tool.SOURCE / "recipes").rglob("*.toml") if path.parent.name != "compare")
        self.assertGreaterEqual(len(recipes), 2)
        for recipe in recipes:
            with self.subTest(str(recipe.relative_to(tool.SOURCE))):
                self.run_tool("settings", str(recipe))

    def test_a_recipe_shows_its_values(self):
        listed = self.run_tool("settings", "tiny.toml").decode()
        self.assertRegex(listed, "(?m)^train.steps +40 ")
        self.assertRegex(listed, "(?m)^moe.expert_width +16 ")

    def test_the_recipe_of_a_run_says_all_of_it(self):
        self.train("run", "--seed", "3", "--threads", "1", "--set", "train.steps=2")
        again = self.run_tool("settings", "run/recipe.toml").decode()
        self.assertRegex(again, "(?m)^train.seed +3 ")
        self.assertRegex(again, "(?m)^train.threads +1 ")
        self.assertRegex(again, "(?m)^train.steps +2 ")
        self.run_tool("train", "run/recipe.toml", "--out", "again")
        model = [tool.last_checkpoint(self.folder / run) / "model.safetensors" for run in ("run", "again")]
        self.assertEqual(model[0].read_bytes(), model[1].read_bytes())

    def test_a_wrong_recipe(self):
        (self.folder / "wrong.toml").write_text("[train]\nstep = 3\n")
        self.assert_refused("settings", "wrong.toml", says=["wrong.toml:2", "did you mean 'train.steps'?"])


class Help(tool.ToolTest):
    def test_every_verb_has_help_with_an_example(self):
        self.assertIn("Example", self.run_tool("--help").decode())
        for verb in VERBS:
            text = self.run_tool(verb, "--help").decode()
            self.assertRegex(text, f"Example:\n  smoe {verb} ")
            self.assertIn(verb, self.run_tool("--help").decode())

    def test_version(self):
        lines = self.run_tool("--version").decode().splitlines()
        self.assertRegex(lines[0], r"^smoe \d+\.\d+\.\d+ \(([0-9a-f]{12,40}(\+changes)?, )?[^,]+, [^,]+\)$")
        self.assertRegex(lines[1], r"^LibTorch 2\.\d+\.\d+")
        self.assertRegex(lines[2], r"^CPU \w+, \d+ threads$")


if __name__ == "__main__":
    unittest.main()
