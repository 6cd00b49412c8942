#!/usr/bin/env python3
"""cmake --install, then the examples as a stranger builds them: against the installed library, with find_package.

Needs SMOE_BUILD, the build folder, and takes CMAKE_COMMAND and CMAKE_CXX_COMPILER from the environment.
"""

import os
import pathlib
import re
import shutil
import subprocess
import unittest

import tool

EXAMPLES = ("1-route", "2-layer", "3-train")


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.build = pathlib.Path(os.environ["SMOE_BUILD"]).resolve()
        cls.cmake = os.environ.get("CMAKE_COMMAND", "cmake")
        # Always the same place, so that ccache knows the files again where there is one.
        cls.folder = cls.build / "tests" / "install"
        cls.prefix, cls.examples = cls.folder / "prefix", cls.folder / "examples"
        shutil.rmtree(cls.folder, ignore_errors=True)
        cls.command(cls.cmake, "--install", cls.build, "--prefix", cls.prefix)
        options = [f"-DCMAKE_PREFIX_PATH={cls.prefix}"]
        if "CMAKE_CXX_COMPILER" in os.environ:
            options.append(f"-DCMAKE_CXX_COMPILER={os.environ['CMAKE_CXX_COMPILER']}")
        if shutil.which("ccache"):
            options.append("-DCMAKE_CXX_COMPILER_LAUNCHER=ccache")
        cls.command(cls.cmake, "-G", "Ninja", "-S", tool.SOURCE / "examples", "-B", cls.examples, *options)
        cls.command(cls.cmake, "--build", cls.examples, "--parallel", "2", timeout=600)

    @staticmethod
    def command(*args, timeout=tool.TIMEOUT):
        # Nothing of the build may help: an installed program finds its libraries by itself.
        environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        done = subprocess.run([str(arg) for arg in args], env=environment, timeout=timeout, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=False)
        if done.returncode != 0:
            raise AssertionError(f"{args} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def example(self, name):
        return self.command(self.examples / name)

    def test_the_tool_runs_from_where_it_is_installed(self):
        version = self.command(self.prefix / "bin" / "smoe", "--version")
        self.assertRegex(version, r"^smoe \d+\.\d+\.\d+ .*\nLibTorch 2\.")
        # It uses the library beside it, not the one in the build folder.
        libraries = self.command("ldd", self.prefix / "bin" / "smoe")
        self.assertIn(f"{self.prefix}/", re.search(r"libsmoe\S* => (\S+)", libraries).group(1))
        self.assertNotIn("not found", libraries)

    def test_installed_headers_are_the_public_ones(self):
        headers = {str(path.relative_to(self.prefix)) for path in self.prefix.rglob("*.h")}
        self.assertIn("include/smoe/smoe.h", headers)
        self.assertNotIn("include/smoe/tensor/precompiled.h", headers)

    def test_examples_are_short_and_include_the_public_surface_only(self):
        for name in EXAMPLES:
            text = (tool.SOURCE / "examples" / f"{name}.cpp").read_text()
            self.assertLess(text.count("\n"), 120, name)
            self.assertEqual(re.findall(r'#include "(.*)"', text), ["smoe/smoe.h"], name)

    def test_1_route(self):
        sections = re.split(r"(?m)^k = ", self.example("1-route"))
        self.assertEqual([section.split("\n")[0] for section in sections[1:]], ["1", "2", "4", "1, 3, 2"])
        for section, ks in zip(sections[1:], [[1] * 3, [2] * 3, [4] * 3, [1, 3, 2]]):
            tokens = re.findall(r"(?m)^  token \d+:(.*)$", section)
            self.assertEqual(len(tokens), 3)
            for token, k in zip(tokens, ks):
                pairs = re.findall(r"expert (\d) × ([0-9.]+)", token)
                self.assertEqual(len(pairs), k)
                self.assertEqual(len({expert for expert, _ in pairs}), k, "a token's experts are distinct")
                self.assertAlmostEqual(sum(float(weight) for _, weight in pairs), 1, delta=0.003)

    def test_2_layer(self):
        output = self.example("2-layer")
        self.assertIn("x [64, 16] → y [64, 16]", output)
        self.assertIn("2.0 experts a token", output)
        self.assertRegex(output, r"(?m)^router\.weight +frozen$")
        norms = dict(re.findall(r"(?m)^(\S+) +gradient norm ([0-9.]+)$", output))
        self.assertEqual(set(norms), {"experts.0.w1", "experts.0.b1", "experts.0.w2", "experts.0.b2", "x"})
        self.assertTrue(all(float(norm) > 0 for norm in norms.values()), norms)
        rows = [(int(k), int(flops), float(distance)) for k, flops, distance in
                re.findall(r"k = (\d): +(\d+) FLOPs .* distance to k = 8: ([0-9.]+)", output)]
        self.assertEqual([row[0] for row in rows], [1, 2, 4, 8])
        self.assertEqual(rows, sorted(rows, key=lambda row: row[1]), "more experts, more work")
        self.assertEqual(rows, sorted(rows, key=lambda row: -row[2]), "more experts, nearer to all of them")
        self.assertEqual(rows[-1][2], 0)

    def test_3_train(self):
        output = self.example("3-train")
        bits = [float(value) for value in re.findall(r"(?m)^k = \d: ([0-9.]+) bits per character", output)]
        self.assertEqual(len(bits), 4)
        self.assertLess(bits[-1], 1, "it has learned to count")
        self.assertLess(bits[-1], bits[0], "all experts are better than one")
        self.assertIn("three four five six seven", output.splitlines()[-1])


if __name__ == "__main__":
    unittest.main()
