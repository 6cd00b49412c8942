"""Looking at the tool's pages in a headless browser, where there is one (scripts/bootstrap --tests installs it)."""

import html
import os
import re
import json
import shutil
import subprocess
import tempfile
import unittest

import tool

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# The browser has errands of its own on the network, none of which gets anywhere.
OPTIONS = ["--headless", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
           "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--virtual-time-budget=2000", "--window-size=1200,900"]

needs_browser = unittest.skipUnless(CHROMIUM, "there is no chromium here; scripts/bootstrap --tests installs it")


def page_data(page):
    """The JSON that a page draws."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


class Browsing:
    """For a unittest.TestCase: pages as the browser has them once their scripts have run."""

    def console_and_dom(self, page):
        """What the page logs, and its DOM once its scripts have run."""
        with tempfile.TemporaryDirectory(prefix="smoe-test-") as profile:
            root = ["--no-sandbox"] if os.geteuid() == 0 else []
            done = subprocess.run([CHROMIUM, *OPTIONS, *root, f"--user-data-dir={profile}", "--dump-dom", page], capture_output=True, timeout=tool.TIMEOUT, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            console = [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
            return console, done.stdout.decode()

    def browse(self, page):
        """The page's DOM; fails where it logs anything. Whatever it asks the network for is an entry too: its policy
        forbids every request."""
        console, dom = self.console_and_dom(page)
        self.assertEqual(console, [])
        return dom

    def rows(self, dom, caption):
        """The rows of a table of the page, headings first, as texts."""
        tables = re.findall(r"<table><caption>(.*?)</caption>(.*?)</table>", dom, re.S)
        body = next(body for name, body in tables if html.unescape(name) == caption)
        return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
                for row in re.findall(r"<tr>(.*?)</tr>", body, re.S)]
