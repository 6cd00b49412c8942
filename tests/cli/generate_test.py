#!/usr/bin/env python3
"""smoe generate: the same question gets the same text."""

import unittest

import tool
from tool import sets


class Generate(tool.ToolTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = cls.make_folder()
        for name, args in (("run", []), ("dense", sets(model__moe_layers='"none"'))):
            done = cls.call("train", "tiny.toml", "--data", "text.txt", "--out", name, *args, folder=cls.shared)
            assert done.returncode == 0, done.stderr

    def setUp(self):
        self.folder = self.shared

    def generate(self, *args, prompt=b"The ", tokens=40, model="run"):
        text = self.run_tool("generate", model, "--prompt", prompt, "--tokens", str(tokens), *args)
        self.assertTrue(text.startswith(prompt) and text.endswith(b"\n"), text)
        self.assertEqual(len(text), len(prompt) + tokens + 1)
        return text

    def test_seed(self):
        first = self.generate("--seed", "5")
        self.assertEqual(first, self.generate("--seed", "5"))
        self.assertNotEqual(first, self.generate("--seed", "6"))

    def test_temperature(self):
        likeliest = self.generate("--temperature", "0", "--seed", "1")
        self.assertEqual(likeliest, self.generate("--temperature", "0", "--seed", "2"))
        # What is left where only the likeliest byte is.
        self.assertEqual(likeliest, self.generate("--top-p", "1e-9", "--seed", "3"))
        self.assertNotEqual(likeliest, self.generate("--temperature", "1.5", "--seed", "1"))

    def test_k(self):
        texts = [self.generate("--k", str(k), "--seed", "1") for k in (1, 2, 3, 4)]
        self.assertEqual(texts[3], self.generate("--seed", "1"), "the default is every expert")
        self.assertEqual(texts[0], self.generate("--seed", "1", "--k", "1"))

    def test_dense(self):
        self.assertEqual(self.generate(model="dense"), self.generate(model="dense"))

    def test_prompts(self):
        for prompt in ("Größe ‰ 日本".encode(), b"\xff\xfe\x80\x01", b"-", b"\n", b"x" * 700):
            with self.subTest(prompt[:20]):
                text = self.run_tool("generate", "run", b"--prompt=" + prompt, "--tokens", "5")
                self.assertEqual((text[: len(prompt)], len(text)), (prompt, len(prompt) + 5 + 1))

    def test_a_longer_text_goes_on_from_a_shorter_one(self):
        self.assertTrue(self.generate(tokens=60).startswith(self.generate(tokens=20)[:-1]))

    def test_no_tokens(self):
        self.assertEqual(self.generate(tokens=0), b"The \n")


if __name__ == "__main__":
    unittest.main()
