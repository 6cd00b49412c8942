"""What the tests from Python share: torch with the built library's operators in it, and mixtures written out plainly.

They run in a Python whose torch is the LibTorch that the build linked against (SMOE_TORCH), which scripts/bootstrap put
into .venv; SMOE_LIBRARY names the library. SMOE_TEST_DEVICE says where tensors are, cpu without it. A test file runs
alone too:

    SMOE_LIBRARY=build/release/libsmoe.so .venv/bin/python tests/python/operator_test.py
"""

import os
import pathlib
import sys

SOURCE = pathlib.Path(__file__).resolve().parents[2]
DEVICE = os.environ.get("SMOE_TEST_DEVICE", "cpu")


def load():
    """Loads the operators. Returns torch, and nothing or why there is none."""
    try:
        import torch
    except ImportError as error:
        return None, f"this Python has no torch that loads ({error}); scripts/bootstrap --tests puts it into .venv"
    linked = os.environ.get("SMOE_TORCH")
    if linked and not os.path.samefile(linked, pathlib.Path(torch.__file__).parent):
        return None, f"the library is built against {linked}, which is not this Python's torch"
    if DEVICE == "cuda" and not torch.cuda.is_available():
        return None, "torch sees no GPU"
    path = os.environ.get("SMOE_LIBRARY")
    if not path:
        sys.exit("SMOE_LIBRARY must name the library that is tested, such as build/release/libsmoe.so")
    os.environ["SMOE_LIBRARY"] = path = str(pathlib.Path(path).resolve())  # for programs that run elsewhere
    torch.ops.load_library(path)
    return torch, None


torch, WHY_NOT = load()
GATES = {"reglu": "relu", "geglu": "gelu", "geglu_tanh": "gelu_tanh", "swiglu": "silu"}


def activate(hidden, name):
    if name in GATES:
        gate, value = hidden.chunk(2, dim=-1)
        return activate(gate, GATES[name]) * value
    functional = torch.nn.functional
    if name == "gelu_tanh":
        return functional.gelu(hidden, approximate="tanh")
    return {"relu": functional.relu, "gelu": functional.gelu, "silu": functional.silu}[name](hidden)


def plain_mixture(x, expert, weight, w1, b1, w2, b2, activation):
    """moe_mlp as its definition reads: expert after expert, over the slots that chose it."""
    y = torch.zeros_like(x)
    for e in range(w1.size(0)):
        token, slot = torch.where(expert == e)
        hidden = x[token] @ w1[e].T
        if b1 is not None:
            hidden = hidden + b1[e]
        out = activate(hidden, activation) @ w2[e].T
        if b2 is not None:
            out = out + b2[e]
        y = y.index_add(0, token, weight[token, slot, None] * out)
    return y


def relative_error(found, expected):
    """‖found − expected‖ / ‖expected‖ in fp64; of two zeros 0."""
    found, expected = found.detach().double(), expected.detach().double()
    assert found.shape == expected.shape, f"{tuple(found.shape)} is not {tuple(expected.shape)}"
    difference = (found - expected).norm().item()
    return difference / expected.norm().item() if difference else 0.0
