"""What the comparisons share: an environment to compute in, timing in turns, and how results are written.

Import it before torch, which it does without: the OpenMP runtime reads its wait policy when it loads. Idle threads wait
passively unless OMP_WAIT_POLICY says otherwise; OMP_WAIT_POLICY=default leaves the choice to the runtime.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]

WAIT_POLICY = os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if WAIT_POLICY == "default":
    del os.environ["OMP_WAIT_POLICY"]
# No library shall work with fewer features of the processor than there are.
for _name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA",
              "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
    os.environ.pop(_name, None)
os.environ["HF_HUB_OFFLINE"] = "1"

DTYPES = ("fp32", "bf16")


def built(variable, name):
    """What the build made of that name, or what the variable names; ends the program where it is not there."""
    path = pathlib.Path(os.environ.get(variable) or SOURCE / "build" / "release" / name).resolve()
    if not path.exists():
        sys.exit(f"{path} is not there: run scripts/build, or set {variable}")
    return str(path)


def numbers(text):
    return [int(part) for part in text.split(",")]


# --- time ------------------------------------------------------------------------------------------------------------

def measure_in_turns(calls, repeat, budget=20.0):
    """Times each of `calls` (name → function that returns the seconds of one run), one after the other in rounds that
    begin with another one each time, so that a disturbance meets all of them. Name → list of seconds.

    Each runs `repeat` times, after two to warm up; where that would take over `budget` seconds, three times after one.
    """
    names, seconds, rounds = list(calls), {}, {}
    for name in names:
        first = calls[name]()
        slow = first * (repeat + 2) > budget
        if not slow:
            calls[name]()
        seconds[name], rounds[name] = [], min(repeat, 3) if slow else repeat
    for i in range(repeat):
        begin = i % len(names)
        for name in names[begin:] + names[:begin]:
            if i < rounds[name]:
                seconds[name].append(calls[name]())
    return seconds


def spread(values):
    """Median and quartiles of at least one number."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "low": low, "high": high}


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def captured(function):
    """What replays a CUDA graph of a call; RuntimeError where the call waits for the GPU, which cannot be captured."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()  # what is made once
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def timed_on_gpu(function, calls=10):
    """Seconds of one of so many calls that wait for each other only on the GPU."""
    import torch  # not before the variables above are set

    def all_calls():
        for _ in range(calls):
            function()
        torch.cuda.synchronize()

    torch.cuda.synchronize()
    return timed(all_calls) / calls


# --- results ---------------------------------------------------------------------------------------------------------

def machine():
    """What a number has to be read with."""
    model = platform.processor()
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    describe = ["git", "-C", str(SOURCE), "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    return {"cpu": model, "cpus": len(os.sched_getaffinity(0)), "torch": importlib.metadata.version("torch"),
            "wait_policy": WAIT_POLICY, "commit": commit}


class Output:
    """Tables on stdout; the same results as JSON lines in a file, if one is wanted."""

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8") if path else None

    def result(self, **values):
        if self.file:
            self.file.write(json.dumps(values) + "\n")
            self.file.flush()

    @staticmethod
    def say(text=""):
        print(text, flush=True)

    def table(self, heads, rows):
        """Markdown, in columns that line up too where they are only text."""
        cells = [[str(cell) for cell in row] for row in [heads, *rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
        ruler = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
        for row in [cells[0], ruler, *cells[1:]]:
            padded = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
            self.say("| " + " | ".join(padded) + " |")


def place(device, threads):
    """Where something was computed, in words."""
    return "GPU" if device == "cuda" else f"{threads} thread{'s' * (threads > 1)}"


def mebibytes(count):
    return "" if count is None else f"{count / 2**20:.1f}"
