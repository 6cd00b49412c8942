#!/usr/bin/env python3
"""Files that smoe writes, read by the Python package safetensors, and files of that package, read by smoe.

Needs the packages torch and safetensors, which scripts/bootstrap --tests puts into .venv; skipped without them.
"""

import hashlib
import json
import pathlib
import sys
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tests" / "cli"))

import tool
from tool import sets

try:
    import torch
    from safetensors import SafetensorError, deserialize, safe_open
    from safetensors.torch import load_file, save_file
    WHY_NOT = None
except ImportError as error:
    WHY_NOT = f"this Python has no torch or safetensors that loads ({error}); scripts/bootstrap --tests puts it into .venv"

FORMATS = SOURCE / "tests" / "formats"


def update_manifest(checkpoint):
    """Makes the manifest true again, as one who edits a checkpoint on purpose would."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, entry in manifest["files"].items():
        content = (checkpoint / name).read_bytes()
        entry.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    path.write_text(json.dumps(manifest, indent=2) + "\n")


@unittest.skipIf(WHY_NOT, WHY_NOT)
class RareTensors(unittest.TestCase):
    """smoe.safetensors, which a C++ test holds smoe's writer to: every dtype, unusual names, shapes and places."""

    def test_read_by_the_package(self):
        expected = load_file(FORMATS / "python.safetensors")
        expected["three bytes, so that no other is aligned"] = torch.tensor(list(b"abc"), dtype=torch.uint8)
        expected[""] = torch.tensor(int.from_bytes(b"12345678", "little"))
        number = torch.frombuffer(bytearray(b"1234"), dtype=torch.float32)
        expected['quote " line \n é'] = number.view([1] * 10)
        with safe_open(FORMATS / "smoe.safetensors", "pt") as file:
            self.assertEqual(file.metadata(), {"format": "pt", "é\n": ""})
            found = {name: file.get_tensor(name) for name in file.keys()}
        self.assertEqual(sorted(found), sorted(expected))
        for name, tensor in expected.items():
            self.assertEqual((found[name].dtype, found[name].shape), (tensor.dtype, tensor.shape), name)
            if tensor.numel():
                bits, expected_bits = (each.view(-1).view(torch.uint8) for each in (found[name], tensor))
                self.assertTrue(torch.equal(bits, expected_bits), name)


@unittest.skipIf(WHY_NOT, WHY_NOT)
class BrokenFiles(unittest.TestCase):
    def test_smoe_refuses_what_the_package_refuses(self):
        lines = (FORMATS / "faults" / "safetensors.txt").read_text().splitlines()
        refused = 0
        for name, fault in (line.split("  ", 1) for line in lines):
            try:
                deserialize((FORMATS / "broken" / "safetensors" / name).read_bytes())
            except SafetensorError:
                refused += 1
                self.assertNotEqual(fault, "(good)", name)
        self.assertGreater(refused, 50)


@unittest.skipIf(WHY_NOT, WHY_NOT)
class Checkpoints(tool.ToolTest):
    def setUp(self):
        super().setUp()
        self.train("run", *sets(train__steps=8))
        self.checkpoint = tool.last_checkpoint(self.folder / "run")
        self.weights = self.checkpoint / "model.safetensors"

    def results(self):
        """What smoe eval of the checkpoint finds at each k, without the clock's part."""
        found = json.loads(self.run_tool("eval", str(self.checkpoint), "--data", "text.txt", "--k", "1,4", "--json"))
        return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in found["results"]]

    def test_read_by_the_package(self):
        for name in ("model.safetensors", "trainer.safetensors"):
            path = self.checkpoint / name
            content = path.read_bytes()
            size = int.from_bytes(content[:8], "little")
            header = json.loads(content[8:8 + size])
            with safe_open(path, "pt") as file:
                self.assertEqual(file.metadata() or {}, header.pop("__metadata__", {}))
                self.assertEqual(sorted(file.keys()), sorted(header))
                for key, entry in header.items():
                    tensor = file.get_tensor(key)
                    begin, end = (8 + size + offset for offset in entry["data_offsets"])
                    self.assertEqual(list(tensor.shape), entry["shape"], key)
                    self.assertEqual(tensor.numpy().tobytes(), content[begin:end], key)
        tensors = load_file(self.weights)
        self.assertEqual(tensors["embedding"].shape, (256, 16))
        self.assertEqual(tensors["layers.1.moe.experts.0.w1"].shape, (4, 16, 16))
        self.assertTrue(all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in tensors.values()))

    def test_written_by_the_package(self):
        before, original = self.results(), self.weights.read_bytes()
        tensors = load_file(self.weights)
        save_file(tensors, self.weights, metadata={"format": "smoe"})
        self.assertNotEqual(self.weights.read_bytes(), original)  # its tensors stand in another order
        self.assert_refused("eval", str(self.checkpoint), "--data", "text.txt", "--k", "1", says=["model.safetensors"])
        update_manifest(self.checkpoint)
        self.assertEqual(self.results(), before)
        # What the package changed is what smoe computes with.
        tensors["output_bias"] += torch.linspace(-2, 2, 256)
        save_file(tensors, self.weights, metadata={"format": "smoe"})
        update_manifest(self.checkpoint)
        self.assertNotEqual([row["nll"] for row in self.results()], [row["nll"] for row in before])

    def test_others_are_refused_by_name(self):
        tensors = load_file(self.weights)
        name = "layers.1.moe.experts.0.w2"
        changes = {
            "another dtype": {**tensors, name: tensors[name].to(torch.float64)},
            "another shape": {**tensors, name: tensors[name][:, :, :-1].contiguous()},
            "a flat one": {**tensors, name: tensors[name].flatten()},
            "one of no elements": {**tensors, name: tensors[name][:0]},
            "one too few": {key: tensor for key, tensor in tensors.items() if key != name},
            "one too many": {**tensors, name + "x": torch.zeros(0)},
        }
        for change, changed in changes.items():
            with self.subTest(change):
                save_file(changed, self.weights, metadata={"format": "smoe"})
                update_manifest(self.checkpoint)
                self.assert_refused("eval", str(self.checkpoint), "--data", "text.txt", "--k", "1",
                                    says=["model.safetensors", name])


if __name__ == "__main__":
    unittest.main()
