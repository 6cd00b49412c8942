#!/usr/bin/env python3
"""Training steps and evaluation of a whole model: smoe against the same Transformer-XL written in PyTorch.

Both do the work of one recipe: lengths, k, dropout, clipping, Adam. First the PyTorch model is checked to find smoe's
losses from smoe's weights; then they run in turns, each in processes of its own. scripts/bench_peers step runs this
with what it needs; --help lists what can be chosen.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import tomllib

import common

RECIPE = common.SOURCE / "recipes" / "table1" / "smoe_dropout.toml"
CHANGE = r"(\w+)\.([\w.]+)=(.+)"  # of --set
# The paper's model in a batch for a CPU; its evaluation in the lengths of training.
SETS = ["train.batch=4", "train.eval_batch=4", "train.eval_segment=512"]
OURS = "smoe"
WAYS = ["loop", "sorted slices", "grouped_mm", "all experts"]
PEERS = WAYS + ["sorted slices + compile", "all experts + compile"]


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench_peers step", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("recipe", nargs="?", default=str(RECIPE), metavar="RECIPE.toml",
                        help=f"default recipes/table1/smoe_dropout.toml with --set {' --set '.join(SETS)}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="changes one key; may be repeated")
    parser.add_argument("--k", default="8,12,16", type=common.numbers, help="trained at; default 8,12,16")
    parser.add_argument("--eval-k", default="1,2,4,8,12,16", help="evaluated at, or all; default %(default)s")
    parser.add_argument("--dtype", default="fp32,bf16", help="fp32, bf16 or both; default %(default)s")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="default %(default)s")
    parser.add_argument("--threads", default="2", type=common.numbers, help="default 2")
    parser.add_argument("--repeat", default=5, type=int, help="timed steps of a turn; default %(default)s")
    parser.add_argument("--rounds", default=3, type=int, help="turns of each; default %(default)s")
    parser.add_argument("--only", help=f"some of {', '.join([OURS, *PEERS])}")
    parser.add_argument("--check", action="store_true", help="only checks that both do the same")
    parser.add_argument("-o", "--output", help="appends the results to this file, a JSON object each")
    arguments = parser.parse_args()
    arguments.dtypes = arguments.dtype.split(",")
    if not set(arguments.dtypes) <= set(common.DTYPES):
        parser.error(f"--dtype is {' or '.join(common.DTYPES)}, not {arguments.dtype}")
    if min(arguments.threads) < 1 or arguments.repeat < 1 or arguments.rounds < 1:
        parser.error("--threads, --repeat and --rounds are at least 1")
    arguments.names = arguments.only.split(",") if arguments.only else [OURS, *PEERS]
    unknown = set(arguments.names) - {OURS, *PEERS}
    if unknown:
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join([OURS, *PEERS])}")
    for change in arguments.set:
        if not re.fullmatch(CHANGE, change):
            parser.error(f"--set takes TABLE.KEY=VALUE, not '{change}'")
    arguments.recipe = str(pathlib.Path(arguments.recipe).resolve())
    arguments.changes = (SETS if arguments.recipe == str(RECIPE) else []) + arguments.set
    arguments.changes.append(f"train.device={arguments.device}")
    arguments.sets = [part for change in arguments.changes for part in ("--set", change)]
    return arguments


def start(name, given):
    """A program of this folder that reads lines and writes lines, with a JSON object as its argument."""
    path = pathlib.Path(__file__).with_name(name)
    return subprocess.Popen([sys.executable, "-B", str(path), json.dumps(given)], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True,
                            env={**os.environ, "OMP_WAIT_POLICY": common.WAIT_POLICY})


def toml_value(text):
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text  # a word without quotes, as --set takes it


def resolved(arguments):
    """The recipe with its changes and every default, by table and key. Refuses what the PyTorch model does not have."""
    listed = subprocess.run([common.built("SMOE_BINARY", "smoe"), "settings", arguments.recipe], capture_output=True,
                            text=True, check=False)
    if listed.returncode:
        sys.exit(listed.stderr.strip())
    recipe = {}
    lines = re.findall(r'^(\w+)\.(\w+) +("(?:[^"\\]|\\.)*"|\[[^]]*\]|\S+)', listed.stdout, re.MULTILINE)
    for table, key, value in lines + [re.fullmatch(CHANGE, change).groups() for change in arguments.changes]:
        recipe.setdefault(table, {})[key] = toml_value(value)
    needed = {"model.kind": "transformer_xl", "model.moe_layers": "all", "model.attention_dropout": 0.0,
              "moe.expert_kind": "ffn", "moe.activation": "relu", "moe.shared_experts": 0,
              "moe.router": "random_frozen", "moe.capacity_factor": 0.0, "train.accumulate": 1}
    for name, value in needed.items():
        table, key = name.split(".")
        if recipe[table][key] != value:
            sys.exit(f"the PyTorch model has only {name} = {json.dumps(value)}, not {json.dumps(recipe[table][key])}")
    return recipe


# --- those who run in turns ------------------------------------------------------------------------------------------

class Smoe:
    """smoe bench step, a process for each turn."""

    def __init__(self, arguments, dtype, threads):
        self.command = [common.built("SMOE_BINARY", "smoe"), "bench", "step", arguments.recipe, *arguments.sets, "--json",
                        "--dtype", dtype, "--threads", str(threads), "--repeat", str(arguments.repeat)]

    def turn(self, k, eval_ks):
        """Tokens a second in training at k and, by k, in evaluation; the most memory in training, of the process or of
        tensors on the GPU."""
        ks = [k, *(each for each in eval_ks if each != k)]  # it trains at the first and evaluates at all
        done = subprocess.run([*self.command, "--k", ",".join(map(str, ks))], capture_output=True, text=True,
                              env=dict(os.environ), check=False)
        if done.returncode:
            sys.exit(f"smoe bench step failed: {done.stderr.strip()}")
        found = json.loads(done.stdout)
        return {"train": found["tokens_per_second"], "peak_bytes": found["peak_gpu_bytes"] or found["peak_rss_bytes"],
                "eval": {each["k"]: each["tokens_per_second"] for each in found["eval"] if each["k"] in eval_ks}}

    def wait(self):
        pass

    def close(self):
        pass


class PeerFailed(Exception):
    """Its own words are on stderr."""


class Peer:
    """A PyTorch model in a process that lives through all turns of one k, so that it compiles once."""

    def __init__(self, recipe, name, dtype, threads, repeat):
        train = recipe["train"]
        self.repeat, self.tokens = repeat, train["batch"] * train["segment"]
        # As smoe bench step evaluates: so many segments beside those that fill the memory.
        self.segments = (train["memory"] + train["segment"] - train["eval_segment"]) // train["eval_segment"] + 8
        given = {"recipe": {**recipe, "train": {**train, "dtype": dtype}}, "variant": name, "threads": threads}
        self.process = start("step_worker.py", given)

    def ask(self, **request):
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise PeerFailed from None
        answer = self.process.stdout.readline()
        if not answer:
            raise PeerFailed
        return json.loads(answer)

    def wait(self):
        """Returns when the process has started, which would disturb whoever has a turn."""
        self.ask(do="peak")

    def turn(self, k, eval_ks):
        seconds = self.ask(do="train_steps", k=k, repeat=self.repeat)["seconds"]
        peak = self.ask(do="peak")["peak_bytes"]
        speeds = {each: self.ask(do="evaluate", k=each, segments=self.segments) for each in eval_ks}
        return {"train": self.tokens / statistics.median(seconds), "peak_bytes": peak,
                "eval": {each: speed["tokens_per_second"] for each, speed in speeds.items()}}

    def close(self):
        """Ends the process, whatever it is at."""
        self.process.kill()
        self.process.communicate()


def take_turns(contenders, k, eval_ks, rounds):
    """Name → its turns; those who fail are taken out of `contenders`."""
    turns = {name: [] for name in contenders}

    def ask(name, question):
        try:
            question(contenders[name])
        except PeerFailed:
            common.Output.say(f"Not run: {name} at k {k}, which failed.")
            contenders.pop(name).close()

    for name in list(contenders):
        ask(name, lambda contender: contender.wait())
    for i in range(rounds):
        names = list(contenders)
        for name in names[i % len(names):] + names[:i % len(names)]:
            ask(name, lambda contender, name=name: turns[name].append(contender.turn(k, eval_ks[name])))
    return {name: turns[name] for name in contenders}


def measure(arguments, recipe, dtype, threads):
    """Name → "train" and "eval" → k → tokens a second, with spread; "peak_bytes" → k."""
    experts = recipe["moe"]["experts"]
    wanted = range(1, experts + 1) if arguments.eval_k == "all" else common.numbers(arguments.eval_k)
    found = {name: {"train": {}, "eval": {}, "peak_bytes": {}} for name in arguments.names}
    for k in arguments.k:
        contenders = {name: Smoe(arguments, dtype, threads) if name == OURS else
                      Peer(recipe, name, dtype, threads, arguments.repeat) for name in arguments.names}
        # What is compiled is compiled for each k anew: it is evaluated at the k it is trained at; others at all, once.
        eval_ks = {name: [each for each in wanted if each == k or ("compile" not in name and k == arguments.k[-1])]
                   for name in arguments.names}
        try:
            for name, turns in take_turns(contenders, k, eval_ks, arguments.rounds).items():
                found[name]["train"][k] = common.spread([turn["train"] for turn in turns])
                found[name]["peak_bytes"][k] = max(turn["peak_bytes"] for turn in turns)
                for each in eval_ks[name]:
                    found[name]["eval"][each] = common.spread([turn["eval"][each] for turn in turns])
        finally:
            for contender in contenders.values():
                contender.close()
    return found


# --- what is shown ---------------------------------------------------------------------------------------------------

def show(found, output):
    for part, title in (("train", "training, tokens/s"), ("eval", "evaluation, tokens/s")):
        ks = sorted({k for values in found.values() for k in values[part]})
        rows = []
        for name, values in found.items():
            row = [name]
            for k in ks:
                speed, ours = values[part].get(k), found.get(OURS, {}).get(part, {}).get(k)
                ratio = f" · {ours['median'] / speed['median']:.2f}" if speed and ours and name != OURS else ""
                row.append(f"{speed['median']:,.0f} ({speed['low']:,.0f}–{speed['high']:,.0f}){ratio}" if speed else "")
                if part == "train":
                    row.append(common.mebibytes(values["peak_bytes"].get(k)))
            rows.append(row)
        columns = 2 if part == "train" else 1
        output.table([title, *(head for k in ks for head in (f"k {k}", "peak, MiB")[:columns])], rows)
        output.say()


def main():
    arguments = parse_arguments()
    recipe = resolved(arguments)
    output = common.Output(arguments.output)
    about = common.machine()
    output.say(", ".join(f"{key} {value}" for key, value in about.items()))
    ways = list(dict.fromkeys(name.partition(" + ")[0] for name in arguments.names if name != OURS)) or WAYS
    with tempfile.TemporaryDirectory(prefix="smoe-peers-") as folder:
        given = {"recipe_path": arguments.recipe, "recipe": recipe, "sets": arguments.sets, "folder": folder, "names": ways,
                 "ks": sorted({1, *arguments.k}), "dtypes": arguments.dtypes}
        process = start("step_check.py", given)
        found, _ = process.communicate()
    if process.returncode:
        sys.exit(process.returncode)  # its own words are on stderr
    differences = json.loads(found)
    for name, by_dtype in differences.items():
        for dtype, (loss, norm) in by_dtype.items():
            output.say(f"{name} in {dtype} finds smoe's losses but for {loss:.1e} nats, its gradients' norms but for "
                       f"{norm:.1e} of them")
            output.result(bench="step check", implementation=name, dtype=dtype, loss=loss, norm=norm, **about)
    if arguments.check:
        return
    output.say("Median and quartiles of the turns; after the point how many times as fast smoe is.\n")
    for dtype in arguments.dtypes:
        for threads in arguments.threads:
            output.say(f"### {dtype}, {common.place(arguments.device, threads)}\n")
            found = measure(arguments, recipe, dtype, threads)
            show(found, output)
            for name, values in found.items():
                output.result(bench="step", implementation=name, dtype=dtype, device=arguments.device, threads=threads, repeat=arguments.repeat,
                              rounds=arguments.rounds, **values, recipe=recipe, **about)


if __name__ == "__main__":
    main()
