#!/usr/bin/env python3
"""Texts in several languages: trainings that know them, evaluations that do not, and what is refused."""

import json
import random
import unittest

import tool
from tool import sets

LANGUAGES = ("a", "b", "c", "d")
LETTERS = 8


PLAN = """
base = "tiny.toml"
seeds = 1
[entry.plain]
summary = "as it is"
[entry.told]
needs = "languages"
moe.router = "post_moe"
"""


def language_text(language, size, seed):
    """Eight letters, the same in each language. A letter is followed by the one that the language's own permutation says,
    and once in ten times by any."""
    order = list(range(LETTERS))
    random.Random(f"order of {language}").shuffle(order)
    draw, letter, text = random.Random(f"{language} {seed}"), 0, []
    for _ in range(size):
        letter = draw.randrange(LETTERS) if draw.random() < 0.1 else order[letter]
        text.append(ord("a") + letter)
    return bytes(text)


class Languages(tool.ToolTest):
    POST_MOE = sets(moe__router="post_moe", model__moe_layers="[1]", k_schedule__kind="constant", k_schedule__min=2,
                    k_schedule__max=2)

    def setUp(self):
        super().setUp()
        for language in LANGUAGES:
            (self.folder / f"{language}.txt").write_bytes(language_text(language, 12_000, 1))
            (self.folder / f"{language}.new").write_bytes(language_text(language, 6_000, 2))
        self.data = tool.make_languages(self.folder, **{language: f"{language}.txt" for language in LANGUAGES})

    def test_in_the_end_tokens_go_to_their_own_expert_unforced(self):
        # What comes next depends on the language, which the text before a token tells.
        self.train("run", *self.POST_MOE, data=self.data, *sets(
            model__width=32, model__ffn_width=32, model__dropout=0, model__init_std=0.2, moe__expert_width=32,
            moe__router_init_std=0.1, train__batch=8, train__segment=32, train__memory=32, train__steps=1000,
            train__log_every=100, train__eval_every=1000, train__checkpoint_every=1000, train__seed=1,
            optimizer__lr=5e-3, optimizer__clip_norm=1))
        for expert, language in enumerate(LANGUAGES):
            document = json.loads(self.run_tool("analyze", "run", "--data", f"{language}.new", "--split", "train", "--k", "2",
                                                "--json"))
            (layer,) = document["traces"][0]["layers"]
            # An expert takes a token once, and a token takes two experts.
            self.assertGreater(2 * layer["load"][expert], 0.8, layer["load"])

    def test_a_run_is_like_any_other(self):
        self.train("run", *self.POST_MOE, data=self.data)
        environment = json.loads((self.folder / "run" / "environment.json").read_text())
        self.assertEqual(environment["data"]["families"], list(LANGUAGES))
        self.assertRegex(environment["commit"], r"^([0-9a-f]{12,40}(\+changes)?)?$")
        all_of_them = json.loads(self.run_tool("eval", "run", "--k", "2", "--json"))
        self.assertEqual(all_of_them["data"]["path"], str(self.folder / self.data))
        for language in LANGUAGES:
            self.run_tool("eval", "run", "--k", "2", "--data", f"{language}.txt")
        self.assertGreater(len(self.run_tool("generate", "run", "--prompt", "abc", "--tokens", "5")), 4)
        self.run_tool("report", "run")
        again = json.loads(self.run_tool("inspect", "run", "--json"))
        self.assertEqual(again["experts"], 4)

    def test_a_comparison_leaves_out_what_needs_them(self):
        (self.folder / "plan.toml").write_text(PLAN)

        def entries(data):
            done = self.call("compare", "plan.toml", "--data", data, "--dry-run", folder=self.folder)
            self.assertEqual(done.returncode, 0, done.stderr)
            lines = done.stdout.decode().splitlines()
            return [line.split("/")[-1] for line in lines if line.startswith("smoe train")], done.stderr.decode()

        self.assertEqual(entries(self.data), (["plain-seed1", "told-seed1"], ""))
        self.assertEqual(entries("a.txt"), (["plain-seed1"], f"smoe: left out, since {self.folder / 'a.txt'} is no table of languages: told\n"))
        self.assert_refused("compare", "plan.toml", "--data", "a.txt", "--only", "told", says=["told: name a table of languages", "a.txt is none"])
        (self.folder / "plan.toml").write_text(PLAN.replace('needs = "languages"', ""))
        self.assert_refused("compare", "plan.toml", "--data", "a.txt", says=["entry told", "'post_moe'", "a.txt"])
        self.assertFalse((self.folder / "runs").exists())

    def test_refusals(self):
        def refuse(table, *says):
            (self.folder / "wrong.toml").write_text(table)
            self.assert_refused("train", "tiny.toml", "--data", "wrong.toml", "--out", "wrong", *self.POST_MOE,
                                says=["wrong.toml", *says])
            self.assertFalse((self.folder / "wrong").exists())

        good = '[language.a]\nfiles = ["a.txt"]\n'
        refuse("", "no language")
        refuse('[language.a]\nfiles = ["z.txt"]\n', ":2", "'z.txt'", "no such file")
        refuse('[language.a]\nfiles = ["*.text"]\n', ":2", "fits no file")
        refuse(good + '[language.b]\nfiles = ["?.txt"]\n', ":4", "'a.txt'", "'a'")
        refuse('families = ["x"]\n' + good + 'family = "y"\n', ":3", "'y'", "did you mean 'x'?")
        refuse('families = ["x", "y"]\n' + good + 'family = "x"\n', ":1", "'y'")
        refuse("".join(f'[language.l{i}]\nfiles = ["{name}"]\n' for i, name in enumerate(
            ["a.txt", "b.txt", "c.txt", "d.txt", "a.new"])), "5 families", "moe.experts = 4")
        refuse((self.folder / "tiny.toml").read_text(), ":3", "'model.layers'")
        self.assert_refused("train", "tiny.toml", "--data", "text.txt", "--out", "wrong", *self.POST_MOE,
                            says=["'post_moe'", "text.txt", "table of languages"])


if __name__ == "__main__":
    unittest.main()
