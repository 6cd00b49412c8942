"""Markdown tables of what scripts/bench has measured."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measured import table  # noqa: E402

MIB = 1 << 20


def commands(results):
    """The commands of a table; those that differ only in dtype and threads are one line: --threads 1|2."""
    values = {}
    for result in results:
        of_command = values.setdefault(" ".join(result.command), {})
        for name, value in result.options.items():
            of_command.setdefault(name, {})[value] = None
    return "\n".join(" ".join(["    smoe bench", command, *(f"{name} {'|'.join(of)}" for name, of in options.items())])
                     for command, options in values.items())


def figures(value):
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def ms(result, *path):
    """A time and, over the rounds, its spread."""
    low, high = result.spread(*path)
    text = figures(result.at(*path))
    return text if len(result.rounds) == 1 else f"{text} ({figures(low)}–{figures(high)})"


def share(value):
    return "–" if value is None else f"{value:.2f}"


def number(value, digits=0):
    return "–" if value is None else f"{value:,.{digits}f}"


def section(title, results, body):
    if not results:
        return ""
    return f"## {title}\n\n{body}\n\n{commands(results)}\n"


def limits(results):
    rows = []
    for result in results:
        reads = {read["level"]: read for read in result["read"]}
        peaks = [number(result.at("peak_gflops", dtype)) for dtype in ("fp32", "bf16")]
        speeds = []
        for level in ("L2", "L3", "DRAM"):
            index = list(reads).index(level) if level in reads else None
            speeds.append("–" if index is None else number(result.at("read", index, "gb_per_second")))
        rows.append([str(result["threads"]), *peaks, *speeds])
    head = ["threads", "fp32 GFLOP/s", "bf16 GFLOP/s", "L2 GB/s", "L3 GB/s", "memory GB/s"]
    return section("Limits", results, table(head, rows))


def layer_rows(results):
    for result in results:
        yield [result["shape"], result["dtype"], str(result["threads"]), ms(result, "forward_ms"),
               number(result["forward_gflops"]), share(result["forward_share"]), ms(result, "forward_backward_ms"),
               number(result["forward_backward_gflops"]), share(result["forward_backward_share"]),
               number(result["activation_bytes"] / MIB, 1)]


LAYER_HEAD = ["shape", "dtype", "threads", "forward ms", "GFLOP/s", "of peak", "fwd + bwd ms", "GFLOP/s", "of peak",
              "kept MiB"]


def layers(title, results, note=""):
    return section(title, results, (note + "\n\n" if note else "") + table(LAYER_HEAD, layer_rows(results)))


def growth(title, results, letter):
    """Time against a size, and how it stands to a line through the largest one."""
    largest = {}
    for result in results:
        of = (result["dtype"], result["threads"])
        if of not in largest or result[letter] > largest[of][letter]:
            largest[of] = result
    rows = []
    for result in results:
        last = largest[(result["dtype"], result["threads"])]
        predicted = [last[name] * result["forward_flops"] / last["forward_flops"]
                     for name in ("forward_ms", "forward_backward_ms")]
        rows.append([str(result[letter]), result["dtype"], str(result["threads"]), ms(result, "forward_ms"),
                     f"{result['forward_ms'] / predicted[0]:.2f}", ms(result, "forward_backward_ms"),
                     f"{result['forward_backward_ms'] / predicted[1]:.2f}"])
    head = [letter, "dtype", "threads", "forward ms", "of the FLOPs' line", "fwd + bwd ms", "of the FLOPs' line"]
    return section(title, results, f"The line goes through the largest {letter}.\n\n" + table(head, rows))


def skew(results):
    rows = [[result["routing"], result["dtype"], str(result["threads"]), ms(result, "forward_ms"),
             share(result["forward_share"]), ms(result, "forward_backward_ms"), share(result["forward_backward_share"])]
            for result in results]
    head = ["routing", "dtype", "threads", "forward ms", "of peak", "fwd + bwd ms", "of peak"]
    return section("Skewed routing", results, table(head, rows))


def decode(results):
    rows = [[result["shape"], result["dtype"], str(result["threads"]), ms(result, "call_ms"),
             number(result["weight_bytes"] / MIB, 1), number(result["gb_per_second"], 1),
             number(result["read_gb_per_second"], 1), share(result["share"])] for result in results]
    head = ["shape", "dtype", "threads", "call ms", "MiB read", "GB/s", "limit GB/s", "share"]
    return section("Few tokens", results, table(head, rows))


def step(results):
    if not results:
        return ""
    parts = [name for name in results[0]["train_ms"] if name != "total"]
    rows = []
    for result in results:
        rows.append([str(result["k"]), result["dtype"], str(result["threads"]), number(result["tokens_per_second"]),
                     ms(result, "train_ms", "total"),
                     *[number(result.at("train_ms", part), 1) for part in parts],
                     number(result["eval_tokens_per_second"]), number(result["peak_rss_bytes"] / MIB)])
    head = ["k", "dtype", "threads", "tokens/s", "step ms", *parts, "evaluation tokens/s", "peak MiB"]
    text = section("Training step", results, table(head, rows))
    return text + "\n" + evaluations([result for result in results if len(result["eval"]) > 1])


def evaluations(results):
    """Tokens a second at each k, a column for each dtype and number of threads."""
    if not results:
        return ""
    rows = [[str(results[0].at("eval", index, "k")),
             *[number(result.at("eval", index, "tokens_per_second")) for result in results]]
            for index in range(len(results[0]["eval"]))]
    head = ["k", *[f"{result['dtype']}, {threads_text(result)}" for result in results]]
    return section("Evaluation at every k", results, "Tokens a second.\n\n" + table(head, rows))


def threads_text(result):
    return f"{result['threads']} thread{'' if result['threads'] == 1 else 's'}"


def document(header, results):
    """All tables, those of nothing left out."""
    def of(group):
        return [result for result in results if result.group == group]

    machine = results[0]["machine"]
    rounds = max(len(result.rounds) for result in results)
    top = (f"# Measurements\n\n{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / (1 << 30):.0f} GiB, "
           f"LibTorch {machine['libtorch']}; commit {header.get('commit', 'unknown')}; medians of {rounds} "
           f"round{'s' if rounds > 1 else ''} through all commands"
           f"{', in brackets the least and the most' if rounds > 1 else ''}.\n")
    if header.get("quick"):
        top += "\nTiny sizes, to see that everything works: these numbers measure nothing.\n"
    parts = [top, limits(of("limits")), layers("Layer at k", of("k")), growth("Growth with k", of("k"), "K"),
             layers("Other shapes", of("shapes")), layers("The plain body", of("reference")),
             growth("Growth with tokens", of("tokens"), "T"), layers("More experts at the same k", of("experts")),
             skew(of("skew")), decode(of("decode")), step(of("step"))]
    return "\n".join(part for part in parts if part)
