#!/usr/bin/env python3
"""A layer of experts: smoe::moe_mlp against the ways in which PyTorch and transformers compute it.

Every implementation is first checked against a loop over the experts in fp64, gradients too; then all are timed in
turns. scripts/bench_peers layer runs this with what it needs; --help lists what can be chosen.
"""

import argparse
import importlib.metadata
import re
import sys

import common  # before torch
import torch

import experts
import hf_experts
import memory
from experts import Experts, dense_network

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OURS, DENSE = "smoe", "dense of equal FLOPs"
IMPLEMENTATIONS = {OURS: experts.smoe, **experts.IMPLEMENTATIONS, **hf_experts.IMPLEMENTATIONS}

SHAPES = ["E16,D256,H512,T2048,K1", "E16,D256,H512,T2048,K2", "E16,D256,H512,T2048,K4", "E16,D256,H512,T2048,K8",
          "E16,D256,H512,T2048,K16", "E8,D1024,H3584,T2048,K2", "E64,D512,H256,T2048,K8"]
# ‖error‖ / ‖value‖ of y and of a gradient, where one unit of millions on the other side of ReLU's kink shows.
TOLERANCE = {"fp32": (1e-5, 1e-3), "bf16": (3e-2, 1e-1)}


def parse_shape(text):
    shape = {letter: int(number) for letter, number in re.findall(r"([EDHTK])(\d+)(?:,|$)", text)}
    if sorted(shape) != sorted("EDHTK") or ",".join(f"{k}{v}" for k, v in shape.items()) != text or 0 in shape.values():
        raise argparse.ArgumentTypeError(f"'{text}' is no shape such as {SHAPES[0]}")
    if shape["K"] > shape["E"]:
        raise argparse.ArgumentTypeError(f"'{text}': a token cannot choose {shape['K']} of {shape['E']} experts")
    return shape


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench_peers layer", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--shape", action="append", type=parse_shape, metavar="E16,D256,H512,T2048,K8",
                        help=f"may be repeated; default {' '.join(SHAPES)}")
    parser.add_argument("--dtype", default="fp32,bf16", help="fp32, bf16 or both; default %(default)s")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="default %(default)s")
    parser.add_argument("--graph", action="store_true",
                        help="on a GPU: captures each call in a CUDA graph and times replaying it, where nothing waits")
    parser.add_argument("--threads", default="1,2", type=common.numbers,
                        help="default %(default)s; with --device cuda the first, of the CPU that gives the GPU its work")
    parser.add_argument("--activation", default="relu", choices=["relu", "swiglu"],
                        help="relu has biases, swiglu has none; default %(default)s")
    parser.add_argument("--repeat", default=9, type=int,
                        help="timed runs of each, fewer of what takes long; default %(default)s")
    parser.add_argument("--only", help="these implementations, separated by commas")
    parser.add_argument("--max-gather", default=4.0, type=float, metavar="GIB",
                        help="leaves batched_mm out where its copies of weights are larger; default %(default)s")
    parser.add_argument("-o", "--output", help="appends the results to this file, a JSON object each")
    arguments = parser.parse_args()
    arguments.dtypes = arguments.dtype.split(",")
    if not set(arguments.dtypes) <= set(common.DTYPES):
        parser.error(f"--dtype is {' or '.join(common.DTYPES)}, not {arguments.dtype}")
    if min(arguments.threads) < 1 or arguments.repeat < 1:
        parser.error("--threads and --repeat are at least 1")
    if arguments.graph and arguments.device != "cuda":
        parser.error("--graph: CUDA graphs are of --device cuda")
    if arguments.device == "cuda":
        if not torch.cuda.is_available():
            parser.error("--device cuda: torch sees no GPU")
        arguments.threads = arguments.threads[:1]
    arguments.shape = arguments.shape or [parse_shape(text) for text in SHAPES]
    arguments.names = arguments.only.split(",") if arguments.only else [*IMPLEMENTATIONS, DENSE]
    unknown = set(arguments.names) - {*IMPLEMENTATIONS, DENSE}
    if unknown:
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join([*IMPLEMENTATIONS, DENSE])}")
    return arguments


class Case:
    """One shape in one dtype: inputs, weights, and the dense network that does as much arithmetic."""

    def __init__(self, shape, activation, dtype, device, graph=False):
        torch.manual_seed(1)
        E, D, H, T, K = (shape[letter] for letter in "EDHTK")
        self.shape, self.activation, self.dtype, self.graph = shape, activation, dtype, graph
        self.weights, self.dense = (Experts(*sizes, activation, dtype).to(device)
                                    for sizes in ((E, D, H), (1, D, K * H)))
        self.expert = torch.rand(T, E).argsort(dim=1)[:, :K].contiguous().to(device)

        def held(numbers):
            # Numbers that bf16 can hold, so that every dtype computes with the same ones.
            return numbers.bfloat16().to(device, dtype)

        self.x = held(torch.randn(T, D)).requires_grad_()
        self.weight = held(torch.softmax(torch.randn(T, K), dim=1)).requires_grad_()
        self.gradient = held(torch.randn(T, D))

    def flops(self):
        """Of a forward pass: 2 for each multiplication with its addition."""
        D, H, T, K = (self.shape[letter] for letter in "DHTK")
        return 2 * T * K * D * H * (3 if self.activation == "swiglu" else 2)

    def parameters(self, name):
        return list((self.dense if name == DENSE else self.weights).parameters())

    def inputs(self, name):
        return [self.x] if name == DENSE else [self.x, self.weight]

    def forward(self, name):
        if name == DENSE:
            return dense_network(self.dense, self.x)
        return IMPLEMENTATIONS[name](self.weights, self.x, self.expert, self.weight)

    def forward_backward(self, name):
        """y and the gradients of inputs and parameters."""
        y = self.forward(name)
        return [y, *torch.autograd.grad(y, self.inputs(name) + self.parameters(name), self.gradient)]

    def forward_call(self, name):
        """What is timed of a forward pass."""
        def call():
            with torch.no_grad():
                return self.forward(name)

        return common.captured(call) if self.graph else call

    def forward_backward_call(self, name):
        # As after a step of an optimizer: what is made of the weights has to be made anew.
        def call():
            torch.autograd.graph.increment_version(self.parameters(name))
            return self.forward_backward(name)

        return common.captured(call) if self.graph else call

    def timed(self, function):
        """Seconds of one call. A GPU is given some at once, as training does, and waited for at the end."""
        if self.x.is_cuda:
            return common.timed_on_gpu(function)
        return common.timed(function)

    def reason_to_skip(self, name, max_gather):
        D, H, T, K = (self.shape[letter] for letter in "DHTK")
        if name == "transformers batched_mm":
            size = T * K * D * H * (2 if self.activation == "swiglu" else 1) * self.dtype.itemsize
            if size > max_gather * 2**30:
                return f"would copy {size / 2**30:.0f} GiB of weights, one expert's for each slot"
        return None

    def errors(self, name, exact):
        """‖error‖ / ‖value‖ of y, and the largest of the gradients."""
        y, *gradients = (((found.double() - expected).norm() / expected.norm()).item()
                         for found, expected in zip(self.forward_backward(name), exact, strict=True))
        return y, max(gradients)


def check(case, names, dtype, exact):
    """Name → nothing where it computes what the fp64 loop does, else why it is not timed; where ours does not the program
    ends."""
    reasons = {}
    for name in names:
        reasons[name] = None
        try:
            errors = (0, 0) if name == DENSE else case.errors(name, exact)  # it computes something else
            if not all(error <= tolerance for error, tolerance in zip(errors, TOLERANCE[dtype])):  # NaN is neither
                reasons[name] = f"is off by {errors[0]:.2g}, in a gradient by {errors[1]:.2g}"
            elif case.graph:
                case.forward_backward_call(name)  # fails where the call waits for the GPU
        except RuntimeError as failure:
            reasons[name] = f"fails: {str(failure).splitlines()[0]}"
        if name == OURS and reasons[name]:
            sys.exit(f"{name} in {dtype} {reasons[name]}")
    return reasons


def measure(case, names, arguments):
    """Name → what was measured of it."""
    found = {name: {} for name in names}
    for name in names:
        besides = [*case.parameters(name), *case.inputs(name), case.expert]
        found[name]["activation_bytes"] = memory.saved_bytes(lambda: case.forward(name), besides)
        found[name]["peak_bytes"] = memory.peak_bytes(lambda: case.forward_backward(name), arguments.device)
    for key, make, factor in (("forward", case.forward_call, 1), ("forward_backward", case.forward_backward_call, 3)):
        calls = {name: (lambda call=make(name): case.timed(call)) for name in names}
        for name, seconds in common.measure_in_turns(calls, arguments.repeat).items():
            times = common.spread([1e3 * each for each in seconds])
            found[name][key + "_ms"] = {**times, "runs": len(seconds)}
            found[name][key + "_gflops"] = factor * case.flops() / times["median"] / 1e6
    return found


def show(found, output):
    """A row each; `smoe is` says how many times as fast smoe is."""
    rows = []
    for name, values in found.items():
        row = [name]
        for key in ("forward", "forward_backward"):
            times = values[key + "_ms"]
            ratio = f"{times['median'] / found[OURS][key + '_ms']['median']:.2f}" if OURS in found else ""
            low, median, high = (f"{times[each]:.{2 if times['median'] >= 1 else 3}f}" for each in ("low", "median", "high"))
            row += [f"{median} ({low}–{high})",
                    f"{values[key + '_gflops']:.0f}", ratio]
        rows.append(row + [common.mebibytes(values["activation_bytes"]), common.mebibytes(values["peak_bytes"])])
    output.table(["implementation", "forward, ms", "GFLOP/s", "smoe is", "forward + backward, ms", "GFLOP/s", "smoe is",
                  "kept, MiB", "peak, MiB"], rows)


def main():
    arguments = parse_arguments()
    torch.ops.load_library(common.built("SMOE_LIBRARY", "libsmoe.so"))
    output = common.Output(arguments.output)
    about = {**common.machine(), "transformers": importlib.metadata.version("transformers")}
    if arguments.device == "cuda":
        about["gpu"] = torch.cuda.get_device_name()
    output.say(", ".join(f"{key} {value}" for key, value in about.items()))
    risen = "memory of tensors on the GPU" if arguments.device == "cuda" else "resident memory"
    output.say("Median and quartiles. kept: what the forward pass keeps for the backward pass, besides x, the routing "
               f"and the parameters. peak: by how much {risen} rose, gradients included.")
    for shape in arguments.shape:
        text = ",".join(f"{letter}{number}" for letter, number in shape.items())
        exact = Case(shape, arguments.activation, torch.float64, arguments.device).forward_backward("loop")
        for dtype in arguments.dtypes:
            case = Case(shape, arguments.activation, TORCH_DTYPES[dtype], arguments.device, arguments.graph)
            skipped = {name: case.reason_to_skip(name, arguments.max_gather) for name in arguments.names}
            skipped.update(check(case, [name for name in arguments.names if not skipped[name]], dtype, exact))
            names = [name for name in arguments.names if not skipped[name]]
            for threads in arguments.threads:
                torch.set_num_threads(threads)
                place = common.place(arguments.device, threads) + (", CUDA graphs" if arguments.graph else "")
                output.say(f"\n### {text}, {arguments.activation}, {dtype}, {place}\n")
                found = measure(case, names, arguments)
                show(found, output)
                for name, reason in skipped.items():
                    if reason:
                        output.say(f"\nNot run: {name}, which {reason}.")
                for name, values in found.items():
                    output.result(bench="layer", implementation=name, shape=text, activation=arguments.activation,
                                  dtype=dtype, device=arguments.device, graph=arguments.graph, threads=threads,
                                  **values, **about)


if __name__ == "__main__":
    main()
