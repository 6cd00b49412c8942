#!/usr/bin/env python3
"""data.format = "enwik8" on a text with known counts: line breaks vanish, ids go by falling frequency."""

import json
import random
import unittest

import tool
from tool import sets

# How often each byte stands in the text. "b" and "c" are as frequent; "b" comes first in the text.
COUNTS = {"a": 9000, "b": 4000, "c": 4000, " ": 2000, "\u00e9".encode()[0]: 500, "z": 499, "\n": 1001}


def byte_of(symbol):
    return symbol if isinstance(symbol, int) else ord(symbol)


def known_text():
    middle = [byte_of(symbol) for symbol, count in COUNTS.items() for _ in range(count)]
    middle.remove(ord("b"))
    random.Random(3).shuffle(middle)
    return b"b" + bytes(middle)


class Enwik8(tool.ToolTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = cls.make_folder()
        (cls.shared / "known.txt").write_bytes(known_text())
        done = cls.call("train", "tiny.toml", "--data", "known.txt", "--out", "run", *sets(data__format="enwik8"),
                        folder=cls.shared)
        assert done.returncode == 0, done.stderr

    def setUp(self):
        self.folder = self.shared

    def test_vocabulary(self):
        checkpoint = tool.last_checkpoint(self.folder / "run")
        self.assertEqual(json.loads((checkpoint / "config.json").read_text())["vocabulary"], 6)
        tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
        self.assertEqual(tokenizer["format"], "enwik8")
        self.assertEqual(tokenizer["bytes"], [ord("a"), ord("b"), ord("c"), ord(" "), 0xC3, ord("z")])

    def test_line_breaks_are_no_tokens(self):
        text = known_text()
        held_out = len(text) // 20
        parts = {"train": text[: len(text) - 2 * held_out], "valid": text[-2 * held_out : -held_out],
                 "test": text[-held_out:]}
        for split, part in parts.items():
            document = json.loads(self.run_tool("eval", "run", "--k", "4", "--split", split, "--json"))
            tokens = len(part) - part.count(b"\n")
            self.assertNotEqual(tokens, len(part))
            self.assertEqual(document["results"][0]["tokens"], 2 * (tokens // 2 - 1))

    def test_a_byte_that_the_training_text_does_not_have(self):
        other = bytearray(b"abc \n" * 400)
        other[1900 + 33] = ord("Q")  # in the test part, the last 100 bytes
        (self.folder / "other.txt").write_bytes(other)
        self.assert_refused("eval", "run", "--data", "other.txt",
                            says=["other.txt (test)", "0x51", "offset 33", "6 symbols"])
        self.run_tool("eval", "run", "--data", "other.txt", "--split", "valid", "--k", "1")

    def test_generate(self):
        text = self.run_tool("generate", "run", "--prompt", "ab\nc", "--tokens", "50")
        self.assertEqual(text[:4], b"ab\nc")
        self.assertEqual(len(text), 4 + 50 + 1)
        self.assertLessEqual(set(text[4:-1]), {byte_of(symbol) for symbol in COUNTS} - {ord("\n")})
        self.assert_refused("generate", "run", "--prompt", "abQ", says=["--prompt", "0x51", "offset 2"])
        self.assert_refused("generate", "run", "--prompt", "\n\n", says=["--prompt", "empty"])


if __name__ == "__main__":
    unittest.main()
