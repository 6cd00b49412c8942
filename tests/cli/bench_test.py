#!/usr/bin/env python3
"""smoe bench: the fields it prints, and that the numbers in them fit together. How fast anything is, is not tested."""

import json
import subprocess
import sys
import unittest
import xml.etree.ElementTree

import tool

LAYER = ["shape", "E", "D", "H", "T", "K", "dtype", "device", "threads", "kernel", "activation", "routing", "repeat", "forward_ms",
         "forward_ms_quartiles", "training_forward_ms", "training_forward_ms_quartiles", "backward_ms",
         "backward_ms_quartiles", "forward_backward_ms", "forward_backward_ms_quartiles", "forward_flops",
         "forward_gflops", "forward_share", "forward_share_quartiles", "forward_backward_flops", "forward_backward_gflops",
         "forward_backward_share", "forward_backward_share_quartiles", "peak_gflops", "peak_gflops_quartiles", "peak_block",
         "activation_bytes", "input_bytes", "routing_bytes", "forward_backward_peak_bytes", "machine"]
DECODE = ["shape", "E", "D", "H", "tokens", "K", "dtype", "threads", "kernel", "activation", "repeat", "calls",
          "experts_read", "weight_bytes", "all_weight_bytes", "call_ms", "call_ms_quartiles", "gb_per_second", "read_ms",
          "read_ms_quartiles", "read_gb_per_second", "share", "share_quartiles", "machine"]
STEP = ["recipe", "k", "dtype", "device", "threads", "kernel", "batch", "accumulate", "segment", "memory", "parameters", "warm_up",
        "repeat", "tokens_per_second", "train_ms", "train_ms_quartiles", "flops_per_token", "loss", "peak_rss_bytes",
        "start_rss_bytes", "peak_gpu_bytes", "eval_batch", "eval_segment", "eval_memory", "eval", "eval_tokens_per_second", "machine"]
EVAL = ["k", "tokens_per_second", "tokens_per_second_quartiles", "tokens", "nll", "flops_per_token"]
PARTS = ["data", "forward", "loss", "backward", "norm", "optimizer", "total"]
MACHINE = ["cpu", "features", "cores", "caches", "memory_bytes", "gpu", "libtorch"]
SHAPE = "E4,D32,H48,T40,K2"


class BenchTest(tool.ToolTest):
    def bench(self, *args):
        return json.loads(self.run_tool("bench", *args, "--repeat", "2", "--json"))

    def assert_spread(self, result, name):
        low, high = result[f"{name}_quartiles"]
        self.assertTrue(0 < low <= result[name] <= high, f"{name}: {low} {result[name]} {high}")

    def assert_near(self, a, b):
        self.assertAlmostEqual(a / b, 1, delta=1e-9)


class Layer(BenchTest):
    def check(self, result, products=2):
        self.assertEqual(list(result), LAYER)
        self.assertEqual(list(result["machine"]), MACHINE)
        e, d, h, t, k = (result[letter] for letter in "EDHTK")
        self.assertEqual(result["shape"], f"E{e},D{d},H{h},T{t},K{k}")
        self.assertEqual(result["forward_flops"], 2 * t * k * products * d * h)
        self.assertEqual(result["forward_backward_flops"], 3 * result["forward_flops"])
        for call in ("forward", "forward_backward"):
            self.assert_near(result[f"{call}_gflops"] * result[f"{call}_ms"] * 1e6, result[f"{call}_flops"])
            if result["peak_gflops"] is not None:
                self.assert_spread(result, f"{call}_share")
        for name in ("forward_ms", "training_forward_ms", "backward_ms", "forward_backward_ms"):
            self.assert_spread(result, name)
        size = 2 if result["dtype"] == "bf16" else 4
        self.assertEqual(result["input_bytes"], t * d * size)
        self.assertEqual(result["routing_bytes"], t * k * 8)
        self.assertGreaterEqual(result["forward_backward_peak_bytes"], result["activation_bytes"])

    def test_one_shape(self):
        result = self.bench("layer", "--shape", SHAPE, "--threads", "2")
        self.check(result)
        self.assertEqual([result[name] for name in ("dtype", "threads", "activation", "routing", "repeat")],
                         ["fp32", 2, "relu", "balanced", 2])

    def test_what_is_kept_is_one_hidden_tensor(self):
        for dtype, size in (("fp32", 4), ("bf16", 2)):
            result = self.bench("layer", "--shape", SHAPE, "--dtype", dtype)
            self.check(result)
            if result["kernel"] == "cpu":
                self.assertEqual(result["activation_bytes"], 40 * 2 * 48 * size, dtype)

    def test_the_plain_body(self):
        result = self.bench("layer", "--shape", SHAPE, "--kernel", "reference")
        self.check(result)
        self.assertEqual(result["kernel"], "reference")
        self.assertEqual(result["activation_bytes"], 0, "it computes its forward pass once more in the backward pass")

    def test_the_grouped_body(self):
        result = self.bench("layer", "--shape", SHAPE, "--kernel", "grouped")
        self.check(result)
        self.assertEqual(result["kernel"], "grouped")
        self.assertGreaterEqual(result["activation_bytes"], 40 * 2 * 48 * 4, "one hidden tensor, in whole tiles")

    def test_gated(self):
        result = self.bench("layer", "--shape", SHAPE, "--activation", "swiglu")
        self.check(result, products=3)
        self.assertEqual(result["activation"], "swiglu")

    def test_several(self):
        results = self.bench("layer", "--shape", "E4,D32,H48,T40", "--shape", "E3,D8,H8,T1", "--k", "1,3")
        self.assertEqual([result["shape"] for result in results],
                         ["E4,D32,H48,T40,K1", "E4,D32,H48,T40,K3", "E3,D8,H8,T1,K1", "E3,D8,H8,T1,K3"])
        for result in results:
            self.check(result)

    def test_edges(self):
        for shape in ("E1,D1,H1,T1,K1", "E5,D7,H3,T33,K5"):
            for routing in ("balanced", "uniform", "skewed"):
                with self.subTest(f"{shape} {routing}"):
                    result = self.bench("layer", "--shape", shape, "--routing", routing)
                    self.check(result)
                    self.assertEqual(result["routing"], routing)

    def test_table(self):
        lines = self.run_tool("bench", "layer", "--shape", SHAPE, "--repeat", "1").decode().splitlines()
        self.assertEqual(len(lines), 3)
        self.assertRegex(lines[0], "^fp32, relu, routing balanced, kernel (cpu|reference), 1 thread, ")
        self.assertEqual(lines[2].split()[0], SHAPE)

    def test_errors(self):
        def refuse(*args, says):
            self.assert_refused("bench", "layer", *args, says=says)

        refuse(says=["bench layer", "--shape is required"])
        refuse("--shape", SHAPE, "--device", "gpu", says=["--device must be cpu or cuda", "'gpu'"])
        if b"no CUDA" in self.run_tool("--version"):
            refuse("--shape", SHAPE, "--device", "cuda", says=["--device cuda", "sees no CUDA device"])
        refuse("--shape", "E4,D32,H48,T40", says=["lacks K", "E16,D256,H512,T2048,K8"])
        refuse("--shape", "", says=["E16,D256"])
        refuse("--shape", "E4,D32,H48,T40,K5", says=["K = 5", "E = 4"])
        refuse("--shape", "E4,D32,H48,T0,K1", says=["'T0'", "from 1 to"])
        refuse("--shape", "E4,D32,H48,T-1,K1", says=["'T-1'", "from 1 to"])
        refuse("--shape", "E4,D32,H4x,T1,K1", says=["'H4x'", "from 1 to"])
        refuse("--shape", "E4,D32,H48,T1,K1,E4", says=["says E twice"])
        refuse("--shape", "E4,D32,H48,W1,K1", says=["'W1'", "not a size"])
        refuse("--shape", "E9999,D99999,H99999,T1,K1", says=["GiB"])
        refuse("--shape", SHAPE, "--k", "1", says=["K", "--k"])
        refuse("--shape", "E4,D32,H48,T40", "--k", "5", says=["K = 5", "E = 4"])
        refuse("--shape", "E4,D32,H48,T40", "--k", "0", says=["--k", "0"])
        refuse("--shape", "E4,D32,H48,T40", "--k", "all", says=["--k", "'all'"])
        refuse("--shape", SHAPE, "--dtype", "fp16", says=["--dtype", "'fp16'", "fp32"])
        refuse("--shape", SHAPE, "--kernel", "refrence", says=["did you mean 'reference'?"])
        refuse("--shape", SHAPE, "--routing", "skew", says=["--routing", "skewed"])
        refuse("--shape", SHAPE, "--activation", "rely", says=["did you mean 'relu'?"])
        refuse("--shape", SHAPE, "--repeat", "0", says=["--repeat", "0"])
        refuse("--shape", SHAPE, "--threads", "-1", says=["--threads", "-1"])
        refuse("--shape", SHAPE, "--jsn", says=["did you mean '--json'?"])


class Limits(BenchTest):
    def test_fields(self):
        result = self.bench("limits", "--threads", "2")
        self.assertEqual(list(result), ["threads", "repeat", "peak_gflops", "blocks", "read", "machine"])
        self.assertEqual(result["threads"], 2)
        for block in result["blocks"]:
            self.assertRegex(block["block"], r"^\d+x\d+x\d+$")
            self.assert_spread(block, "gflops")
        for dtype, peak in result["peak_gflops"].items():
            speeds = [block["gflops"] for block in result["blocks"] if block["dtype"] == dtype]
            self.assertEqual(peak, max(speeds, default=None))
        levels = [read["level"] for read in result["read"]]
        self.assertEqual(levels, [level for level in ("L2", "L3", "DRAM") if level in levels])
        self.assertIn("DRAM", levels)
        sizes = [read["bytes"] for read in result["read"]]
        self.assertEqual(sizes, sorted(sizes))
        for read in result["read"]:
            self.assert_spread(read, "gb_per_second")


class Decode(BenchTest):
    def test_fields(self):
        results = self.bench("decode", "--shape", "E4,D32,H64,K2", "--tokens", "1,5")
        self.assertEqual([result["shape"] for result in results], ["E4,D32,H64,T1,K2", "E4,D32,H64,T5,K2"])
        for result in results:
            self.assertEqual(list(result), DECODE)
            of_one = 2 * 32 * 64 * 4
            self.assertEqual(result["all_weight_bytes"], 4 * of_one)
            self.assert_near(result["weight_bytes"], result["experts_read"] * of_one)
            self.assert_near(result["gb_per_second"] * result["call_ms"] * 1e6, result["weight_bytes"])
            self.assert_spread(result, "share")
            self.assert_spread(result, "call_ms")
            self.assert_spread(result, "read_ms")
        self.assertEqual(results[0]["experts_read"], 2)
        self.assertTrue(2 < results[1]["experts_read"] <= 4)

    def test_every_expert(self):
        result = self.bench("decode", "--shape", "E3,D32,H64,K3", "--tokens", "4", "--dtype", "bf16")
        self.assertEqual(result["experts_read"], 3)
        self.assertEqual(result["weight_bytes"], 3 * 2 * 32 * 64 * 2)

    def test_errors(self):
        self.assert_refused("bench", "decode", "--shape", "E4,D32,H64,T2,K2", says=["'T2'", "E16,D256,H512,K2"])
        self.assert_refused("bench", "decode", "--shape", "E4,D32,H64,K2", "--tokens", "0", says=["--tokens", "0"])
        self.assert_refused("bench", "decode", "--shape", "E4,D32,H64,K5", says=["K = 5", "E = 4"])


class Step(BenchTest):
    @classmethod
    def environment(cls):
        # What a run leaves behind would be here.
        cls.temporary = getattr(cls, "temporary", None) or cls.make_folder()
        return {**super().environment(), "TMPDIR": str(cls.temporary)}

    def tearDown(self):
        self.assertEqual(sorted(path.name for path in self.temporary.glob("smoe-bench-*")), [])

    def check(self, result, ks):
        self.assertEqual([name for name in result if name != "profile"], STEP)
        self.assertEqual(list(result["train_ms"]), PARTS)
        self.assertEqual([result[name] for name in ("batch", "segment", "memory", "repeat")], [2, 16, 16, 2])
        total = result["train_ms"]["total"]
        self.assert_near(sum(ms for part, ms in result["train_ms"].items() if part != "total"), total)
        self.assert_near(result["tokens_per_second"] * total / 1e3, 2 * 16)
        low, high = result["train_ms_quartiles"]
        self.assertTrue(0 < low <= total * (1 + 1e-9) and total <= high * (1 + 1e-9), "of two steps all is the middle")
        self.assertTrue(0 < result["loss"] < 20)
        self.assertTrue(0 < result["start_rss_bytes"] <= result["peak_rss_bytes"])
        self.assertEqual([entry["k"] for entry in result["eval"]], ks)
        for entry in result["eval"]:
            self.assertEqual(list(entry), EVAL)
            self.assertEqual(entry["tokens"], 2 * 16 * (1 + 8))
            self.assert_spread(entry, "tokens_per_second")
        self.assertEqual([entry["tokens_per_second"] for entry in result["eval"] if entry["k"] == result["k"]],
                         [result["eval_tokens_per_second"]])

    def test_default_is_the_largest_k(self):
        result = self.bench("step", "tiny.toml", "--threads", "2")
        self.check(result, [4])
        self.assertEqual([result[name] for name in ("recipe", "k", "dtype", "threads", "kernel")],
                         ["tiny.toml", 4, "fp32", 2, "auto"])
        self.assertNotIn("profile", result)

    def test_memory_is_not_that_of_who_started_it(self):
        # A process that becomes the tool: what it had before does not count.
        code = "import os, sys; large = b'x' * (700 << 20); os.execv(sys.argv[1], sys.argv[1:])"
        done = subprocess.run([sys.executable, "-c", code, tool.binary(), "bench", "step", "tiny.toml", "--repeat", "2", "--json"],
                              cwd=self.folder, capture_output=True, env=self.environment(), check=True)
        self.assertLess(json.loads(done.stdout)["peak_rss_bytes"], 700 << 20)

    def test_all_is_trained_at_e(self):
        result = self.bench("step", "tiny.toml", "--k", "all", "--dtype", "bf16")
        self.check(result, [1, 2, 3, 4])
        self.assertEqual((result["k"], result["dtype"]), (4, "bf16"))

    def test_more_k_are_only_evaluated(self):
        result = self.bench("step", "tiny.toml", "--k", "2,4,1")
        self.check(result, [2, 4, 1])
        self.assertEqual(result["k"], 2)

    def test_it_trains(self):
        first = self.bench("step", "tiny.toml", "--k", "3")
        self.assertEqual(first["loss"], self.bench("step", "tiny.toml", "--k", "3")["loss"], "the same bytes and weights")
        text = self.bench("step", "tiny.toml", "--k", "3", "--data", "text.txt", "--set", "optimizer.lr=3e-2")
        self.check(text, [3])
        self.assertLess(text["loss"], first["loss"], "what has an order is learned sooner")

    def test_the_plain_bodies(self):
        plain = self.bench("step", "tiny.toml", "--kernel", "reference")
        self.assertEqual(plain["kernel"], "reference")
        self.assertAlmostEqual(plain["loss"], self.bench("step", "tiny.toml")["loss"], delta=1e-3)

    def test_dense(self):
        result = self.bench("step", "tiny.toml", *tool.sets(model__moe_layers='"none"'))
        self.check(result, [None])
        self.assertIsNone(result["k"])
        self.assert_refused("bench", "step", "tiny.toml", *tool.sets(model__moe_layers='"none"'), "--k", "2",
                            says=["--k", "dense"])

    def test_profile(self):
        result = self.bench("step", "tiny.toml", "--profile", *tool.sets(model__dropout=0.1))
        self.check(result, [4])
        profile = result["profile"]
        self.assertEqual(list(profile), ["steps", "ms", "parts", "operators"])
        parts = {entry["part"]: entry for entry in profile["parts"]}
        self.assertEqual(set(parts), {"attention", "dropout", "embedding", "experts", "loss", "norms", "optimizer",
                                      "output", "router", "rest"})
        self.assert_near(sum(entry["ms"] for entry in parts.values()), profile["ms"])
        self.assert_near(sum(entry["share"] for entry in parts.values()), 1)
        of_part = dict.fromkeys(parts, 0)
        for operator in profile["operators"]:
            of_part[operator["part"]] += operator["self_ms"]
            self.assertGreaterEqual(operator["self_ms"], 0)
        for part, ms in of_part.items():
            if part != "rest":  # where the time between operators is too
                self.assertAlmostEqual(ms, parts[part]["ms"], delta=1e-9)
        # The backward pass counts for what made it: each of two layers has two norms.
        calls = {(operator["part"], operator["name"]): operator["calls"] for operator in profile["operators"]}
        self.assertEqual(calls["norms", "NativeLayerNormBackward0"], 4)
        self.assertEqual([part for part, name in calls if name == "smoe::moe_mlp_backward"], ["experts"])
        self.assertEqual(calls["experts", "smoe::moe_mlp_backward"], 2)
        self.assertEqual(calls["loss", "smoe.loss"], 1)

    def test_table(self):
        lines = self.run_tool("bench", "step", "tiny.toml", "--repeat", "1", "--profile").decode().splitlines()
        self.assertRegex(lines[0], "^tiny.toml, k 4, fp32, batch 2 x 16, memory 16, ")
        self.assertEqual([line.split()[0] for line in lines[2:9]], PARTS)

    def test_errors(self):
        def refuse(*args, says):
            self.assert_refused("bench", "step", *args, says=says)

        refuse(says=["bench step", "recipe is required"])
        refuse("nowhere.toml", says=["nowhere.toml"])
        refuse("tiny.toml", "--k", "5", says=["--k", "5", "1 to 4"])
        refuse("tiny.toml", "--k", "0", says=["--k", "0"])
        refuse("tiny.toml", "--k", "many", says=["--k", "'many'", "all"])
        refuse("tiny.toml", "--set", "train.bach=4", says=["did you mean 'train.batch'?"])
        refuse("tiny.toml", "--dtype", "fp64", says=["dtype", "fp32"])
        refuse("tiny.toml", "--data", "nowhere", says=["nowhere"])
        refuse("tiny.toml", "--kernel", "fast", says=["--kernel", "reference"])


class Set(BenchTest):
    """tools/bench/measure, which scripts/bench calls."""

    def measure(self, *args):
        environment = {**self.environment(), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run([sys.executable, tool.SOURCE / "tools" / "bench" / "measure", *args], cwd=self.folder,
                              env=environment, timeout=5 * tool.TIMEOUT, capture_output=True, text=True, check=False)

    def test_quick(self):
        done = self.measure(tool.binary(), "-o", "out", "--quick", "--rounds", "2")
        self.assertEqual(done.returncode, 0, done.stderr)
        out = self.folder / "out"
        self.assertEqual(done.stdout.split(), ["out/tables.md", "out/roofline.svg"])
        header, *lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
        self.assertEqual(list(header), ["commit", "version", "quick"])
        self.assertEqual({line["round"] for line in lines}, {0, 1})
        groups = {"limits", "k", "shapes", "reference", "tokens", "experts", "skew", "decode", "step"}
        self.assertEqual({line["group"] for line in lines}, groups)
        tables = (out / "tables.md").read_text()
        for heading in ("Limits", "Layer at k", "Growth with k", "Few tokens", "Training step", "Evaluation at every k"):
            self.assertIn(f"## {heading}\n\n", tables)
        # The median of two rounds is their mean.
        of = [line["result"] for line in lines if line["group"] == "decode"]
        of = [result["read_gb_per_second"] for result in of if (result["tokens"], result["dtype"]) == (4, "fp32")]
        self.assertIn(f"| {sum(of) / 2:,.1f} |", tables)
        self.assertIn("    smoe bench layer --shape E4,D32,H64,T64,K2 --routing skewed --repeat 1 --dtype fp32|bf16 "
                      "--threads 1\n", tables)
        root = xml.etree.ElementTree.parse(out / "roofline.svg").getroot()
        self.assertGreater(len(root.findall(".//{*}title")), 10)
        (out / "tables.md").unlink()
        self.assertEqual(self.measure("--again", "out").returncode, 0)
        self.assertEqual((out / "tables.md").read_text(), tables)

    def test_errors(self):
        def refuse(*args, says):
            done = self.measure(*args)
            self.assertNotEqual(done.returncode, 0)
            self.assertNotIn("Traceback", done.stderr)
            self.assertIn(says, done.stderr)

        refuse(says="name the tool")
        refuse("--again", "nowhere", says="nowhere/results.jsonl: no such file")
        (self.folder / "results.jsonl").write_text("{}\n")
        refuse("--again", ".", says="holds no results")
        (self.folder / "results.jsonl").write_text("{}\n{\n")
        refuse("--again", ".", says="results.jsonl:2: not a line of JSON")


class Parts(BenchTest):
    def test_help(self):
        for part in ("layer", "limits", "step", "decode"):
            self.assertRegex(self.run_tool("bench", part, "--help").decode(), f"Example:\n  smoe bench {part} ")

    def test_errors(self):
        self.assert_refused("bench", says=["layer", "limits", "step", "decode", "smoe bench --help"])
        self.assert_refused("bench", "layr", says=["'layr'", "did you mean 'layer'?"])


if __name__ == "__main__":
    unittest.main()
