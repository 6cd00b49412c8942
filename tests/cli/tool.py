"""What the tests of the tool share: running it, a small recipe, a text, and a folder that vanishes.

The tool is the one that the environment's SMOE_BINARY names. A test file runs alone too:

    SMOE_BINARY=build/release/smoe tests/cli/eval_test.py
"""

import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
TIMEOUT = 120  # seconds for one call of the tool; it takes half of one

# Learns within forty steps, in a quarter of a second.
RECIPE = """
[model]
layers = 2
width = 16
heads = 2
head_width = 8
ffn_width = 64

[moe]
experts = 4
expert_width = 16

[k_schedule]
min = 1
max = 4

[train]
batch = 2
segment = 16
memory = 16
steps = 40
log_every = 2
eval_every = 10
eval_batch = 2
eval_segment = 16
eval_tokens = 200
checkpoint_every = 7

[optimizer]
lr = 1e-2
"""


def binary():
    path = os.environ.get("SMOE_BINARY")
    if not path:
        sys.exit("SMOE_BINARY must name the tool that is tested, such as build/release/smoe")
    return str(pathlib.Path(path).resolve())


def make_text(size=40_000, seed=7):
    """`size` bytes of sentences of made-up words; the same seed gives the same text."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 7))) for _ in range(120)]
    text = ""
    while len(text) < size:
        text += " ".join(draw.choices(words, k=draw.randint(4, 12))) + ".\n"
    return text[:size].encode()


def make_languages(folder, **files):
    """Writes languages.toml: make_languages(folder, en="a.txt", de="b.txt") has two languages, each a family."""
    tables = "".join(f'[language.{name}]\nfiles = ["{file}"]\n' for name, file in files.items())
    (pathlib.Path(folder) / "languages.toml").write_text(tables)
    return "languages.toml"


def sets(**values):
    """--set options: sets(train__steps=5) is ["--set", "train.steps=5"]."""
    return [part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]


def files_under(folder):
    """The content of every file below `folder`, by relative path."""
    folder = pathlib.Path(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def last_checkpoint(run):
    index = json.loads((pathlib.Path(run) / "checkpoints" / "index.json").read_text())
    return pathlib.Path(run) / "checkpoints" / index["last"]["name"]


class ToolTest(unittest.TestCase):
    """Each test gets a folder of its own with tiny.toml and text.txt in it, which is where the tool runs."""

    @classmethod
    def make_folder(cls):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="smoe-test-"))
        cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
        (folder / "tiny.toml").write_text(RECIPE)
        (folder / "text.txt").write_bytes(make_text())
        return folder

    def setUp(self):
        self.folder = self.make_folder()

    @classmethod
    def environment(cls):
        # One thread, since the machine has other things to do and the model is small; a test that wants two says so.
        # The wait policy is set here, so that the tool does not start itself a second time to set it.
        return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}

    @classmethod
    def call(cls, *args, folder, environment=None):
        """Runs the tool and returns its exit code and its output as bytes."""
        return subprocess.run([binary(), *args], cwd=folder, env=environment or cls.environment(), timeout=TIMEOUT,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False)

    def start(self, *args):
        """Starts the tool without waiting for it."""
        process = subprocess.Popen([binary(), *args], cwd=self.folder, env=self.environment(),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.kill()
        process.communicate()

    def run_tool(self, *args, folder=None):
        """Runs the tool, which has to succeed, and returns what it printed."""
        done = self.call(*args, folder=folder or self.folder)
        self.assertEqual(done.returncode, 0, f"{args}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def train(self, run, *args, data="text.txt"):
        self.run_tool("train", "tiny.toml", "--data", data, "--out", str(run), *args)

    def assert_fails(self, *args, code, says=(), folder=None):
        """Runs the tool, which has to end with `code` and one clear line, the last on stderr; returns that line."""
        done = self.call(*args, folder=folder or self.folder)
        stderr = done.stderr.decode(errors="replace")
        self.assertEqual(done.returncode, code, f"{args}: {stderr}")
        lines = stderr.splitlines()
        self.assertTrue(lines and stderr.endswith("\n"), f"{args}: says nothing")
        self.assertRegex(lines[-1], "^smoe: ", args)
        for sign in ("Traceback", "terminate called", "what():", "frame #", "c10::", "Exception raised"):
            self.assertNotIn(sign, stderr, args)
        for text in says:
            self.assertIn(text, lines[-1], args)
        return lines[-1]

    def assert_refused(self, *args, says=(), folder=None):
        """Runs the tool, which has to refuse: exit code 2, nothing on stdout, exactly one line on stderr."""
        done = self.call(*args, folder=folder or self.folder)
        stderr = done.stderr.decode(errors="replace")
        self.assertEqual(done.returncode, 2, f"{args}: {stderr}")
        self.assertEqual(done.stdout, b"", args)
        self.assertEqual(stderr.count("\n"), 1, f"{args}: {stderr}")
        self.assertRegex(stderr, "^smoe: .*\n$", args)
        self.assertLess(len(stderr), 600, args)
        for text in says:
            self.assertIn(text, stderr, args)
        return stderr
