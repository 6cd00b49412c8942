"""What scripts/bench measures: the commands of docs/performance.md, in the order of one round."""

import os

LAYER = "E16,D256,H512,T2048"


def thread_counts():
    """1, 2, 4 … and all there are."""
    cores = len(os.sched_getaffinity(0))
    counts = [1]
    while counts[-1] * 2 < cores:
        counts.append(counts[-1] * 2)
    return sorted({*counts, cores})


def layer(group, shapes, repeat, *more):
    shaped = [part for shape in shapes for part in ("--shape", shape)]
    return group, ["layer", *shaped, *more, "--repeat", str(repeat)]


def full():
    step = ["step", "recipes/table1/smoe_dropout.toml", "--set", "train.batch=4", "--repeat", "6"]
    return [
        ("limits", ["limits"]),
        layer("k", [LAYER], 7, "--k", "1,2,4,8,16"),
        layer("shapes", ["E8,D1024,H3584,T2048,K2"], 5),
        layer("shapes", ["E64,D512,H256,T2048,K8"], 7),
        layer("reference", [f"{LAYER},K8"], 3, "--kernel", "reference"),
        layer("tokens", [f"E16,D256,H512,T{tokens},K8" for tokens in (32, 128, 512, 2048, 8192)], 7),
        layer("experts", [f"E{experts},D256,H512,T2048,K8" for experts in (8, 16, 32, 64, 128)], 7),
        layer("skew", [f"{LAYER},K2"], 9),
        layer("skew", [f"{LAYER},K2"], 9, "--routing", "skewed"),
        ("decode", ["decode", "--shape", "E16,D256,H512,K2", "--shape", "E8,D1024,H3584,K2"]),
        ("step", [*step, "--k", "8"]),
        ("step", [*step, "--k", "12"]),
        ("step", [*step, "--k", "all"]),
    ]


def quick():
    """The same in a size that shows that everything works and measures nothing."""
    small = ("model.layers=1", "model.width=16", "moe.experts=4", "moe.expert_width=16", "k_schedule.max=4",
             "train.segment=16", "train.memory=16", "train.eval_segment=16")
    step = ["step", "recipes/demo/smoe_dropout.toml", "--repeat", "2", *(word for key in small for word in ("--set", key))]
    return [
        ("limits", ["limits", "--repeat", "1"]),
        layer("k", ["E4,D32,H64,T64"], 1, "--k", "1,2,4"),
        layer("shapes", ["E8,D64,H32,T64,K2"], 1),
        layer("reference", ["E4,D32,H64,T64,K2"], 1, "--kernel", "reference"),
        layer("tokens", ["E4,D32,H64,T32,K2", "E4,D32,H64,T128,K2"], 1),
        layer("experts", ["E2,D32,H64,T64,K2", "E8,D32,H64,T64,K2"], 1),
        layer("skew", ["E4,D32,H64,T64,K2"], 1),
        layer("skew", ["E4,D32,H64,T64,K2"], 1, "--routing", "skewed"),
        ("decode", ["decode", "--shape", "E4,D32,H64,K2", "--tokens", "1,4", "--repeat", "1"]),
        ("step", [*step, "--k", "2"]),
        ("step", [*step, "--k", "all"]),
    ]


def commands(is_quick, threads):
    """(group, arguments of smoe bench, options) of one round: each in both dtypes and on each number of threads."""
    for group, arguments in quick() if is_quick else full():
        for dtype in [{}] if group == "limits" else [{"--dtype": "fp32"}, {"--dtype": "bf16"}]:
            for count in threads:
                yield group, arguments, {**dtype, "--threads": str(count)}
