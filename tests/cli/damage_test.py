#!/usr/bin/env python3
"""A run whose files are not as they were written is refused by the file's name, and left as it is."""

import json
import shutil
import unittest

import tool
from tool import sets

FILES = ("config.json", "manifest.json", "model.safetensors", "tokenizer.json", "trainer.json", "trainer.safetensors")


def flip(offset):
    def change(content):
        changed = bytearray(content)
        changed[offset if offset >= 0 else len(content) + offset] ^= 0x01
        return bytes(changed)
    return change


class DamagedRun(tool.ToolTest):
    """Each test damages its copy of one run."""

    @classmethod
    def setUpClass(cls):
        cls.original = cls.make_folder()
        done = cls.call("train", "tiny.toml", "--data", "text.txt", "--out", "run", *sets(train__steps=14),
                        folder=cls.original)
        assert done.returncode == 0, done.stderr

    def setUp(self):
        super().setUp()
        # The text stays where the run has it written down.
        self.run_folder = self.folder / "run"
        shutil.copytree(self.original / "run", self.run_folder)
        self.checkpoint = tool.last_checkpoint(self.run_folder)

    def refused_by_eval_and_resume(self, name, model=None):
        before = tool.files_under(self.run_folder)
        self.assert_refused("eval", str(model or self.run_folder), "--k", "1", says=[name])
        self.assert_refused("train", "--resume", str(self.run_folder), says=[name])
        self.assertEqual(tool.files_under(self.run_folder), before, "a refused resume must change nothing")

    def damage_each(self, change):
        self.assertEqual(sorted(path.name for path in self.checkpoint.iterdir()), sorted(FILES))
        for name in FILES:
            with self.subTest(name):
                path = self.checkpoint / name
                content = path.read_bytes()
                change(path, content)
                self.refused_by_eval_and_resume(name, model=self.checkpoint)
                path.write_bytes(content)
        self.run_tool("eval", str(self.checkpoint), "--k", "1")  # whole again

    def test_first_byte(self):
        self.damage_each(lambda path, content: path.write_bytes(flip(0)(content)))

    def test_middle_byte(self):
        self.damage_each(lambda path, content: path.write_bytes(flip(len(content) // 2)(content)))

    def test_last_byte(self):
        self.damage_each(lambda path, content: path.write_bytes(flip(-1)(content)))

    def test_truncated(self):
        self.damage_each(lambda path, content: path.write_bytes(content[:-1]))

    def test_emptied(self):
        self.damage_each(lambda path, content: path.write_bytes(b""))

    def test_longer(self):
        self.damage_each(lambda path, content: path.write_bytes(content + b"\n"))

    def test_deleted(self):
        self.damage_each(lambda path, content: path.unlink())

    def test_an_extra_file(self):
        for name in ("stray.bin", ".hidden"):
            (self.checkpoint / name).write_bytes(b"x")
            self.refused_by_eval_and_resume(name)
            (self.checkpoint / name).unlink()

    def test_a_checkpoint_of_another_run(self):
        # Every file is as it was written, but of a model of another size.
        self.train("other", *sets(train__steps=14, moe__expert_width=8))
        shutil.rmtree(self.checkpoint)
        shutil.copytree(tool.last_checkpoint(self.folder / "other"), self.checkpoint)
        before = tool.files_under(self.run_folder)
        self.assert_refused("train", "--resume", str(self.run_folder), says=["model.safetensors", "experts.0.w1"])
        self.assertEqual(tool.files_under(self.run_folder), before)

    def test_index_of_checkpoints(self):
        index = self.run_folder / "checkpoints" / "index.json"
        content = index.read_bytes()
        cases = {f"byte {at}": flip(at)(content) for at in (0, 5, 30, len(content) // 3, len(content) // 2, -70, -1)}
        cases["empty"] = b""
        cases["truncated"] = content[:-1]
        cases["not JSON"] = b"\xff\x00"
        cases["a list"] = b"[]\n"
        for name in ("step-00000099", "..", "/", ""):
            changed = json.loads(content)
            changed["last"]["name"] = changed["best_full"]["name"] = name
            cases[f"names '{name}'"] = json.dumps(changed, indent=2).encode() + b"\n"
        # An edit that leaves it well-formed: another best loss.
        changed = json.loads(content)
        changed["best_full"]["nll"] = 1.0
        cases["an edited loss"] = json.dumps(changed, indent=2).encode() + b"\n"
        for case, damaged in cases.items():
            with self.subTest(case):
                index.write_bytes(damaged)
                self.refused_by_eval_and_resume("index.json")
        index.unlink()
        self.refused_by_eval_and_resume("index.json")
        index.write_bytes(content)
        self.run_tool("eval", str(self.run_folder), "--k", "1")

    def test_a_missing_checkpoint(self):
        shutil.rmtree(self.checkpoint)
        self.refused_by_eval_and_resume("index.json")

    def test_a_good_checkpoint_is_not_thrown_away_for_a_bad_one(self):
        # What a process leaves that was killed between a save and its entry in the index, and then damage to the last.
        newer = self.checkpoint.parent / "step-00000021"
        shutil.copytree(self.checkpoint, newer)
        config = self.checkpoint / "config.json"
        config.write_bytes(flip(3)(config.read_bytes()))
        self.refused_by_eval_and_resume("config.json")
        self.assertTrue(newer.is_dir())

    def test_recipe_and_metrics(self):
        metrics = self.run_folder / "metrics.jsonl"
        content = metrics.read_bytes()
        lines = content.splitlines(keepends=True)
        metrics.write_bytes(lines[0] + b"not JSON\n" + b"".join(lines[1:]))
        self.assert_refused("train", "--resume", str(self.run_folder), says=["metrics.jsonl", ":2"])
        metrics.write_bytes(content)
        recipe = self.run_folder / "recipe.toml"
        recipe.write_bytes(recipe.read_bytes() + b"[modle]\nlayers = 2\n")
        self.assert_refused("train", "--resume", str(self.run_folder), says=["recipe.toml", "modle"])

    def test_another_text(self):
        (self.folder / "text.txt").write_bytes(tool.make_text(seed=8))
        before = tool.files_under(self.run_folder)
        self.assert_refused("train", "--resume", str(self.run_folder), "--data", "text.txt",
                            says=["text.txt", "SHA-256"])
        self.assertEqual(tool.files_under(self.run_folder), before)


if __name__ == "__main__":
    unittest.main()
