#!/usr/bin/env python3
"""Files that are too large to be checked in, and broken: refused by name, within seconds, without much memory. And the
checked-in ones (tests/formats/broken_files_test.cpp reads them) are what tests/formats/make_broken makes."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import tool
from tool import sets

MAKE_BROKEN = tool.SOURCE / "tests" / "formats" / "make_broken"
MOST_MEMORY = 1200  # MiB; it takes less than 900, and the largest of these files has 160
MOST_SECONDS = 10   # of the processor; it takes less than two


class CheckedInFiles(unittest.TestCase):
    def test_they_are_what_the_script_makes(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, MAKE_BROKEN, folder], check=True)
            self.assertEqual(tool.files_under(folder), tool.files_under(MAKE_BROKEN.parent / "broken"))


class LargeFiles(tool.ToolTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = cls.make_folder()
        cls.large = cls.shared / "large"
        subprocess.run([sys.executable, MAKE_BROKEN, "--large", cls.large], check=True)
        done = cls.call("train", "tiny.toml", "--data", "text.txt", "--out", "run", *sets(train__steps=4),
                        folder=cls.shared)
        assert done.returncode == 0, done.stderr

    def setUp(self):
        self.folder = self.shared
        self.run_folder = self.folder / "copy"
        shutil.copytree(self.folder / "run", self.run_folder)
        self.addCleanup(shutil.rmtree, self.run_folder)

    def refuse(self, name, *args):
        """Runs the tool, which has to refuse within bounds."""
        with tempfile.TemporaryFile() as stderr:
            process = subprocess.Popen([tool.binary(), *args], cwd=self.folder, env=self.environment(),
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            stderr.seek(0)
            said = stderr.read().decode(errors="replace")
        self.assertEqual(process.returncode, 2, said[:2000])
        self.assertRegex(said, "^smoe: [^\n]*\n$")
        self.assertLess(len(said), 600)
        self.assertIn(name, said)
        self.assertLess(usage.ru_maxrss / 1024, MOST_MEMORY)
        self.assertLess(usage.ru_utime + usage.ru_stime, MOST_SECONDS)

    def for_each(self, pattern, test):
        files = sorted(self.large.glob(pattern))
        self.assertTrue(files)
        for file in files:
            with self.subTest(file.name):
                test(file)

    def test_recipes(self):
        def test(file):
            self.refuse(file.name, "train", str(file), "--data", "text.txt", "--out", "new")
            self.assertFalse((self.folder / "new").exists())

        self.for_each("recipe_*", test)
        self.refuse("/dev/zero", "train", "/dev/zero", "--data", "text.txt", "--out", "new")

    def test_logs(self):
        def test(file):
            log = self.run_folder / (file.name.split("_")[0] + ".jsonl")
            kept = log.read_bytes() if log.exists() else b""
            shutil.copy(file, log)
            self.refuse(log.name, "report", "copy")
            log.write_bytes(kept)

        self.for_each("metrics_*", test)
        self.for_each("evaluations_*", test)

    def replace_in_checkpoint(self, name, file):
        """Puts a file into the copy's checkpoint, with a manifest that agrees."""
        checkpoint = tool.last_checkpoint(self.run_folder)
        shutil.copy(file, checkpoint / name)
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        content = file.read_bytes()
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (checkpoint / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        return str(checkpoint)

    def test_configurations(self):
        self.for_each("config_*", lambda file: self.refuse(
            "config.json", "eval", self.replace_in_checkpoint("config.json", file)))

    def test_weights(self):
        self.for_each("*.safetensors", lambda file: self.refuse(
            "model.safetensors", "eval", self.replace_in_checkpoint("model.safetensors", file)))


if __name__ == "__main__":
    unittest.main()
