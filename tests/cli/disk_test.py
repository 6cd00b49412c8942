#!/usr/bin/env python3
"""A disk that is full: one clear line, what was saved before stays good, and with space again the run goes on.

The disk is a file system in memory, mounted in a name space of this process's own, where the system allows that.
"""

import os
import shutil
import subprocess
import sys
import unittest

import tool
from tool import sets

INSIDE = "SMOE_TEST_OWN_MOUNTS"


def enter_own_name_space():
    """Starts this program again where it may mount; goes on as it is where the system allows that to nobody."""
    if INSIDE in os.environ or shutil.which("unshare") is None:
        return
    for unshare in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        probe = subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
        if probe.returncode == 0:
            os.environ[INSIDE] = "1"
            os.execvp("unshare", [*unshare, sys.executable, *sys.argv])


class FullDisk(tool.ToolTest):
    def setUp(self):
        super().setUp()
        if INSIDE not in os.environ:
            self.skipTest("this system lets neither root nor a user name space mount a file system")
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", self.disk], check=True)
        self.addCleanup(subprocess.run, ["umount", self.disk], check=True)

    def fill_up(self, leave):
        """Writes a file that leaves about `leave` bytes free."""
        free = os.statvfs(self.disk).f_bavail * os.statvfs(self.disk).f_frsize
        (self.disk / "filler").write_bytes(b"x" * (free - leave))

    def test_full_while_saving(self):
        self.train("undisturbed")
        # A checkpoint takes 155 kB: there is room for one, and not for two.
        self.fill_up(leave=260_000)
        line = self.assert_fails("train", "tiny.toml", "--data", "text.txt", "--out", "disk/run", code=1,
                                 says=["disk/run/", "No space left on device"])
        self.assertRegex(line, r"\.saving-step-\d+/\w+")
        run = self.disk / "run"
        self.assertEqual(tool.last_checkpoint(run).name, "step-00000007")
        self.assertEqual([path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")], [])
        self.run_tool("eval", "disk/run", "--k", "all")

        # Still full: the same line again, and no harm done.
        self.assert_fails("train", "--resume", "disk/run", code=1, says=["No space left on device"])
        self.run_tool("eval", "disk/run", "--k", "1")

        (self.disk / "filler").unlink()
        self.run_tool("train", "--resume", "disk/run")
        undisturbed = self.folder / "undisturbed"
        self.assertEqual((run / "metrics.jsonl").read_bytes(), (undisturbed / "metrics.jsonl").read_bytes())
        last, expected = (tool.files_under(tool.last_checkpoint(folder)) for folder in (run, undisturbed))
        self.assertEqual(last, expected)

    def test_full_from_the_start(self):
        self.fill_up(leave=0)
        self.assert_fails("train", "tiny.toml", "--data", "text.txt", "--out", "disk/run", code=1,
                          says=["disk/run", "No space left on device"])
        (self.disk / "filler").unlink()
        self.run_tool("train", "tiny.toml", "--data", "text.txt", "--out", "disk/run", *sets(train__steps=2))

    def test_full_while_logging(self):
        # Nothing is saved for a long time; metrics.jsonl is what fills the disk, in the middle of a line.
        options = sets(train__steps=300, train__log_every=1, train__eval_every=300, train__checkpoint_every=300)
        self.train("undisturbed", *options)
        self.fill_up(leave=50_000)
        self.assert_fails("train", "tiny.toml", "--data", "text.txt", "--out", "disk/run", *options, code=1,
                          says=["disk/run", "No space left on device"])
        (self.disk / "filler").unlink()
        self.run_tool("train", "--resume", "disk/run")
        for name in ("metrics.jsonl", "checkpoints/step-00000300/model.safetensors"):
            found, expected = (folder / name for folder in (self.disk / "run", self.folder / "undisturbed"))
            self.assertTrue(found.read_bytes() == expected.read_bytes(), name)


if __name__ == "__main__":
    enter_own_name_space()
    unittest.main()
