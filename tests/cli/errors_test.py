#!/usr/bin/env python3
"""Wrong input gets one clear line, with the nearest valid name where there is one, and exit code 2."""

import shutil
import time
import unittest

import tool
from tool import sets


class WrongCommandLines(tool.ToolTest):
    def test_verbs(self):
        self.assert_refused(says=["train", "eval", "generate", "--help"])
        self.assert_refused("trian", says=["'trian'", "did you mean 'train'?"])
        self.assert_refused("evaluate", "x", says=["'evaluate'", "eval"])

    def test_options(self):
        self.assert_refused("train", "--rsume", "x", says=["'--rsume'", "did you mean '--resume'?"])
        self.assert_refused("eval", "x", "--jsn", says=["'--jsn'", "did you mean '--json'?"])
        self.assert_refused("generate", "x", "--promt=The", says=["'--promt=The'", "did you mean '--prompt'?"])
        self.assert_refused("eval", says=["eval", "model is required"])
        self.assert_refused("generate", "x", says=["--prompt"])
        self.assert_refused("eval", "x", "y", says=["'y'"])
        self.assert_refused("train", "tiny.toml", "--seed", "x", says=["--seed"])
        self.assert_refused("train", "tiny.toml", "--data", "text.txt", "--seed", "-1", says=["seed", "0", "-1"])
        self.assert_refused("train", "tiny.toml", "--threads", "-1", says=["--threads", "-1"])
        self.assert_refused("train", "tiny.toml", "--device", "gpu", says=["--device", "cpu", "'gpu'"])
        self.assert_refused("train", "tiny.toml", "--dtype", "f32", says=["dtype", "did you mean 'fp32'?"])
        self.assert_refused("train", says=["recipe", "--resume"])

    def test_it_starts_the_same_without_a_wait_policy(self):
        # Where OMP_WAIT_POLICY is not set, the tool starts itself again with it.
        environment = {key: value for key, value in self.environment().items() if not key.startswith("OMP_")}
        done = self.call("eval", "nowhere", folder=self.folder, environment=environment)
        self.assertEqual((done.returncode, done.stderr), (2, b"smoe: nowhere: no such run or checkpoint\n"))


class WrongRecipes(tool.ToolTest):
    def refuse(self, *args, says):
        self.assert_refused("train", "tiny.toml", "--data", "text.txt", "--out", "run", *args, says=says)
        self.assertFalse((self.folder / "run").exists(), "a refused run must leave nothing behind")

    def test_set(self):
        self.refuse("--set", "modle.layers=2", says=["'modle.layers'", "did you mean 'model.layers'?"])
        self.refuse("--set", "train.step=2", says=["'train.step'", "did you mean 'train.steps'?"])
        self.refuse("--set", "train.steps=many", says=["train.steps", "integer", "many"])
        self.refuse("--set", "train.steps=1.5", says=["train.steps", "integer", "1.5"])
        self.refuse("--set", "train.steps=0", says=["train.steps", "at least 1"])
        self.refuse("--set", "model.dropout=1", says=["model.dropout", "0.999"])
        self.refuse("--set", "optimizer.lr=nan", says=["optimizer.lr"])
        self.refuse("--set", "train.steps", says=["train.steps", "key=value"])
        self.refuse("--set", "moe.router=random_frozn", says=["moe.router", "did you mean 'random_frozen'?"])
        self.refuse("--set", "k_schedule.kind=linaer", says=["k_schedule.kind", "did you mean 'linear'?"])
        self.refuse("--set", "model.moe_layers=[0, 2]", says=["model.moe_layers", "2"])

    def test_values_that_contradict_each_other(self):
        self.refuse("--set", "k_schedule.max=5", says=["k_schedule.max", "moe.experts"])
        self.refuse("--set", "freeze.router=0.5", says=["freeze.router = 0.5", "random_frozen"])
        self.refuse("--set", "freeze.experts=2", says=["freeze.experts", "between 0 and 1"])
        self.refuse("--set", "k_schedule.min=4", "--set", "k_schedule.max=3", says=["k_schedule.min"])
        self.refuse("--set", "train.small_k=5", says=["train.small_k", "moe.experts"])
        self.refuse("--set", "train.accumulate=3", says=["train.accumulate", "train.batch"])
        self.refuse("--set", "model.width=15", says=["model.width", "even"])
        self.refuse("--set", "train.eval_segment=33", says=["train.eval_segment"])

    def test_recipe_files(self):
        self.assert_refused("train", "none.toml", says=["none.toml", "no such file"])
        self.assert_refused("train", ".", says=["folder"])
        for text, says in [
            ("[modle]\nlayers = 2\n", ["modle", "did you mean 'model.layers'?"]),
            ("[model]\nlayer = 2\n", [":2", "'model.layer'", "did you mean 'model.layers'?"]),
            ("[model]\nlayers = \"two\"\n", [":2", "model.layers", "integer"]),
            ("[model]\nlayers = 2\nlayers = 3\n", [":3"]),
            ("[model\n", ["wrong.toml"]),
            ("model = 3\n", ["wrong.toml", "model"]),
            ("\0", ["wrong.toml"]),
            ("[" * 100_000, ["wrong.toml"]),
        ]:
            (self.folder / "wrong.toml").write_text(text)
            with self.subTest(text[:40]):
                self.assert_refused("train", "wrong.toml", "--data", "text.txt", says=["wrong.toml", *says])


class WrongTexts(tool.ToolTest):
    def refuse(self, data, says):
        self.assert_refused("train", "tiny.toml", "--data", data, "--out", "run", says=says)
        self.assertFalse((self.folder / "run").exists(), "a refused run must leave nothing behind")

    def test_files(self):
        (self.folder / "empty").write_bytes(b"")
        (self.folder / "one").write_bytes(b"a")
        (self.folder / "small").write_bytes(b"a" * 39)  # valid has one byte
        self.refuse("nothing", says=["nothing", "no such file"])
        self.refuse("empty", says=["empty", "0 bytes"])
        self.refuse("one", says=["one", "1 byte"])
        self.refuse("small", says=["small", "valid", "1 byte"])
        self.refuse("/dev/null", says=["/dev/null", "regular file"])
        self.assert_refused("train", "tiny.toml", "--out", "run", says=["--data"])

    def test_a_text_too_short_for_the_batch(self):
        (self.folder / "short").write_bytes(b"ab" * 25)  # 46 bytes of train, 40 streams
        self.assert_refused("train", "tiny.toml", "--data", "short", "--out", "run", *sets(train__batch=40),
                            says=["short", "46 tokens", "40 streams"])

    def test_folders(self):
        folder = self.folder / "texts"
        folder.mkdir()
        self.refuse("texts", says=["texts", "'train'"])
        for name in ("train.txt", "valid.txt"):
            shutil.copy(self.folder / "text.txt", folder / name)
        self.refuse("texts", says=["texts", "'test'", "train, valid and test"])
        shutil.copy(self.folder / "text.txt", folder / "test.txt")
        shutil.copy(self.folder / "text.txt", folder / "test.md")
        self.refuse("texts", says=["texts", "'test'", "more than one"])
        (folder / "test.md").unlink()
        self.run_tool("train", "tiny.toml", "--data", "texts", "--out", "run", *sets(train__steps=2))

    def test_every_byte_is_text(self):
        (self.folder / "binary").write_bytes(bytes(range(256)) * 64)
        self.run_tool("train", "tiny.toml", "--data", "binary", "--out", "run", *sets(train__steps=5))
        self.run_tool("eval", "run", "--k", "4")
        self.assertEqual(len(self.run_tool("generate", "run", "--prompt", b"\xff\x80", "--tokens", "20")), 2 + 20 + 1)


class WrongModels(tool.ToolTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = cls.make_folder()
        for name, args in (("run", []), ("dense", sets(model__moe_layers='"none"'))):
            done = cls.call("train", "tiny.toml", "--data", "text.txt", "--out", name, *sets(train__steps=4), *args,
                            folder=cls.shared)
            assert done.returncode == 0, done.stderr

    def setUp(self):
        self.folder = self.shared

    def test_k(self):
        for verb in (["eval", "run"], ["generate", "run", "--prompt", "a"]):
            self.assert_refused(*verb, "--k", "0", says=["--k", "0", "1 to 4"])
            self.assert_refused(*verb, "--k", "5", says=["--k", "5", "1 to 4"])
            self.assert_refused(*verb, "--k", "-1", says=["--k"])
            self.assert_refused(*verb, "--k", "x", says=["--k", "x"])
        self.assert_refused("eval", "run", "--k", "1,", says=["--k", "all"])
        self.assert_refused("eval", "run", "--k", "1,,2", says=["--k", "all"])
        self.assert_refused("eval", "run", "--k", "99999999999999999999", says=["--k"])

    def test_a_dense_model_has_no_k(self):
        self.assert_refused("eval", "dense", "--k", "1", says=["--k", "dense"])
        self.assert_refused("generate", "dense", "--prompt", "a", "--k", "1", says=["--k", "dense"])

    def test_arguments(self):
        self.assert_refused("eval", "run", "--split", "tset", says=["'tset'", "did you mean 'test'?"])
        self.assert_refused("eval", "run", "--data", "nothing", says=["nothing", "no such file"])
        self.assert_refused("generate", "run", "--prompt", "", says=["--prompt", "empty"])
        self.assert_refused("generate", "run", "--prompt", "a", "--tokens", "-1", says=["--tokens", "-1"])
        self.assert_refused("generate", "run", "--prompt", "a", "--temperature", "-1", says=["temperature", "-1"])
        self.assert_refused("generate", "run", "--prompt", "a", "--temperature", "nan", says=["temperature"])
        self.assert_refused("generate", "run", "--prompt", "a", "--top-p", "0", says=["top-p"])
        self.assert_refused("generate", "run", "--prompt", "a", "--top-p", "1.5", says=["top-p", "1.5"])

    def test_models_that_are_none(self):
        (self.folder / "folder").mkdir(exist_ok=True)
        for verb in (["eval"], ["generate", "--prompt", "a"]):
            self.assert_refused(*verb, "nothing", says=["nothing", "no such"])
            self.assert_refused(*verb, "text.txt", says=["text.txt", "is a file"])
            self.assert_refused(*verb, "folder", says=["folder", "neither"])
        too_long = "x" * 300
        for verb in (["eval"], ["inspect"], ["report"], ["analyze"], ["slim", "-o", "new"], ["train", "--resume"],
                     ["train", "tiny.toml", "--out", "new", "--data"], ["train", "tiny.toml", "--data", "text.txt", "--out"]):
            self.assert_refused(*verb, too_long, says=[too_long, "too long"])
        self.assertFalse((self.folder / "new").exists())
        self.assert_refused("train", "--resume", "nothing", says=["nothing", "no such run"])
        self.assert_refused("train", "--resume", "folder", says=["folder", "recipe.toml"])
        self.assert_refused("train", "--resume", "text.txt", says=["text.txt", "no such run"])

    def test_a_folder_that_is_not_empty(self):
        before = tool.files_under(self.folder / "run")
        train = ["train", "tiny.toml", "--data", "text.txt", "--out"]
        self.assert_refused(*train, "run", says=["run", "not empty", "--resume"])
        self.assert_refused(*train, ".", says=["not empty"])
        self.assert_refused(*train, "text.txt", says=["text.txt", "is a file"])
        self.assert_refused(*train, "text.txt/run", says=["text.txt/run"])
        self.assertEqual(tool.files_under(self.folder / "run"), before)

    def test_resume_takes_no_recipe(self):
        for extra in (["tiny.toml"], ["--set", "train.steps=9"], ["--seed", "1"], ["--out", "other"],
                      ["--dtype", "bf16"], ["--device", "cpu"]):
            self.assert_refused("train", "--resume", "run", *extra, says=["--resume", "recipe"])


class TwoAtOnce(tool.ToolTest):
    def test_a_run_belongs_to_one_process(self):
        long = 1_000_000
        first = self.start("train", "tiny.toml", "--data", "text.txt", "--out", "run",
                           *sets(train__steps=long, train__eval_every=long, train__checkpoint_every=long))
        metrics = self.folder / "run" / "metrics.jsonl"
        limit = time.monotonic() + tool.TIMEOUT
        while first.poll() is None and not (metrics.exists() and metrics.stat().st_size > 0):
            self.assertLess(time.monotonic(), limit, "the first process does not begin")
            time.sleep(0.01)
        self.assert_refused("train", "--resume", "run", says=["run", "another process"])
        self.assert_refused("train", "tiny.toml", "--data", "text.txt", "--out", "run", says=["run", "not empty"])
        first.terminate()
        first.communicate(timeout=tool.TIMEOUT)
        self.assertEqual(first.returncode, 143)
        self.run_tool("eval", "run", "--k", "1")


if __name__ == "__main__":
    unittest.main()
