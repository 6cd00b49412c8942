#!/usr/bin/env python3
"""smoe::moe_mlp and its parts from Python, beside the wheel's torch: values, gradients, what torch.library demands,
torch.compile.

Needs torch and what it asks for, which scripts/bootstrap --tests puts into .venv; skipped without it.
"""

import os
import tempfile
import unittest
import unittest.mock

import library
from library import DEVICE, plain_mixture, relative_error, torch

# ‖error‖ / ‖value‖ against the mixture in fp64 on the same numbers. bf16 rounds hidden row and result: 2^-9 each.
TOLERANCE = {} if torch is None else {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 8e-3}
NAMES = ("x", "weight", "w1", "b1", "w2", "b2")


def forced_kernel(name):
    return unittest.mock.patch.dict(os.environ, SMOE_KERNEL=name)


class Case:
    """Random arguments of moe_mlp, from the seed alone."""

    def __init__(self, dtype, T=37, D=24, H=40, E=5, K=2, activation="relu", bias=True, expert=None, seed=1):
        draw = torch.Generator().manual_seed(seed)

        def normal(*shape, std=1.0):
            return (torch.randn(*shape, generator=draw, dtype=torch.float64) * std).to(DEVICE, dtype).requires_grad_()

        rows = 2 * H if activation in library.GATES else H
        self.activation = activation
        self.x, self.weight = normal(T, D), normal(T, K if expert is None else expert.size(1))
        self.w1, self.w2 = normal(E, rows, D, std=D**-0.5), normal(E, D, H, std=H**-0.5)
        self.b1, self.b2 = (normal(E, rows), normal(E, D)) if bias else (None, None)
        expert = torch.rand(T, E, generator=draw).argsort(dim=1)[:, :K] if expert is None else expert
        self.expert = expert.to(DEVICE)

    def arguments(self, to=lambda tensor: tensor):
        tensors = [self.x, self.expert, self.weight, self.w1, self.b1, self.w2, self.b2]
        return [None if tensor is None else to(tensor) for tensor in tensors] + [self.activation]

    def inputs(self):
        """Those with a gradient, by name."""
        return {name: getattr(self, name) for name in NAMES if getattr(self, name) is not None}


def gradient_tolerance(case):
    # On a GPU a product in bf16 is rounded before its bias is added, which may take a unit over ReLU's kink.
    kinked = case.x.dtype == torch.bfloat16 and case.activation in ("relu", "reglu") and DEVICE != "cpu"
    return 0.1 if kinked else 2 * TOLERANCE[case.x.dtype]


@unittest.skipIf(library.WHY_NOT, library.WHY_NOT)
class OperatorTest(unittest.TestCase):
    def assert_equals_the_plain_mixture(self, case, **options):
        tolerance = TOLERANCE[case.x.dtype]
        y = torch.ops.smoe.moe_mlp(*case.arguments(), **options)
        exact = case.arguments(lambda t: t.detach().double().requires_grad_() if t.is_floating_point() else t)
        expected = plain_mixture(*exact)
        self.assertEqual((y.dtype, y.is_contiguous()), (case.x.dtype, True))
        self.assertLess(relative_error(y, expected), tolerance)
        gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(y)
        inputs = case.inputs()
        found = torch.autograd.grad(y, list(inputs.values()), gradient)
        wanted = [t for t in exact if torch.is_tensor(t) and t.requires_grad]
        order = ("x", "weight", "w1", "b1", "w2", "b2") if case.b1 is not None else ("x", "weight", "w1", "w2")
        expected = dict(zip(order, torch.autograd.grad(expected, wanted, gradient.double())))
        for name, each in zip(inputs, found):
            self.assertEqual(each.dtype, inputs[name].dtype, name)
            self.assertLess(relative_error(each, expected[name]), gradient_tolerance(case), name)


class AgainstThePlainMixture(OperatorTest):
    def test_activations(self):
        for dtype in TOLERANCE:
            for activation in ("relu", "gelu", "gelu_tanh", "silu", *library.GATES):
                for bias in (True, False):
                    with self.subTest(dtype=dtype, activation=activation, bias=bias):
                        self.assert_equals_the_plain_mixture(Case(dtype, activation=activation, bias=bias))

    def test_sizes(self):
        shapes = (dict(T=0), dict(T=1), dict(T=1, K=1), dict(K=1), dict(K=5), dict(E=1, K=1), dict(D=1, H=1),
                  dict(T=130, D=65, H=33, E=7, K=3), dict(T=200, D=256, H=512, E=16, K=8))
        for dtype in TOLERANCE:
            for shape in shapes:
                for activation in ("relu", "swiglu"):
                    with self.subTest(dtype=dtype, shape=shape, activation=activation):
                        self.assert_equals_the_plain_mixture(Case(dtype, activation=activation, **shape))

    def test_routings(self):
        T, E = 37, 5
        sparse = torch.rand(T, E, generator=torch.Generator().manual_seed(3)).argsort(dim=1)[:, :3]
        routings = {
            "all to one": torch.full((T, 1), 3),
            "empty slots anywhere": torch.where(sparse == 1, -1, sparse),
            "the sentinel E": torch.where(sparse > 2, E, sparse),
            "nobody to anyone": torch.full((T, 2), -1),
            "32-bit": sparse.int(),
            "not contiguous": sparse.T.contiguous().T,
        }
        for dtype in TOLERANCE:
            for name, expert in routings.items():
                with self.subTest(dtype=dtype, routing=name):
                    self.assert_equals_the_plain_mixture(Case(dtype, T=T, E=E, expert=expert))

    def test_weights_that_change_between_calls(self):
        # Packed copies of the weights must follow a step of an optimizer and one behind autograd's back.
        case = Case(torch.float32)
        for change in (lambda w: w.mul_(-0.5), lambda w: w.data.add_(0.25), lambda w: w.copy_(w.flip(0))):
            self.assert_equals_the_plain_mixture(case)
            with torch.no_grad():
                change(case.w1)
                change(case.w2)
        self.assert_equals_the_plain_mixture(case)

    def test_some_numbers_of_a_weight_that_change_behind_autograds_back(self):
        case = Case(torch.float32, D=64, H=128)
        torch.ops.smoe.moe_mlp(*case.arguments())
        case.w1.data[:, 3, 17] = 100
        case.w2.data[:, 5] = 0
        torch.ops.smoe.forget_packed_weights()
        self.assert_equals_the_plain_mixture(case)

    def test_autocast_leaves_it_alone(self):
        for name in ("auto", "reference", "grouped"):
            for dtype in TOLERANCE:
                with self.subTest(body=name, dtype=dtype), forced_kernel(name):
                    case = Case(dtype)
                    inputs = list(case.inputs().values())
                    expected = torch.ops.smoe.moe_mlp(*case.arguments())
                    with torch.autocast(DEVICE, torch.bfloat16):
                        y = torch.ops.smoe.moe_mlp(*case.arguments())
                        gradients = torch.autograd.grad(y.sum(), inputs)
                    self.assertTrue(torch.equal(y, expected))
                    for found, want in zip(gradients, torch.autograd.grad(expected.sum(), inputs)):
                        self.assertTrue(torch.equal(found, want))

    def test_a_second_derivative_is_refused(self):
        for dtype in TOLERANCE:
            case = Case(dtype)
            gradient, = torch.autograd.grad(torch.ops.smoe.moe_mlp(*case.arguments()).square().sum(), case.x,
                                            create_graph=True)
            with self.assertRaisesRegex(RuntimeError, "moe_mlp_backward is not implemented"):
                (gradient + case.x**2).sum().backward()

    def test_without_gradients(self):
        case = Case(torch.float32)
        expected = torch.ops.smoe.moe_mlp(*case.arguments())
        for guard in (torch.no_grad, torch.inference_mode):
            with guard():
                y = torch.ops.smoe.moe_mlp(*case.arguments())
            self.assertFalse(y.requires_grad)
            self.assertTrue(torch.equal(y, expected))

    def test_frozen_inputs(self):
        for frozen in (("w1", "b1", "w2", "b2"), ("x", "weight"), ("b2",)):
            case = Case(torch.float32)
            full = torch.autograd.grad(torch.ops.smoe.moe_mlp(*case.arguments()).sum(), list(case.inputs().values()))
            expected = dict(zip(case.inputs(), full))
            for name in frozen:
                getattr(case, name).requires_grad_(False)
            torch.ops.smoe.moe_mlp(*case.arguments()).sum().backward()
            for name, tensor in case.inputs().items():
                if name in frozen:
                    self.assertIsNone(tensor.grad, name)
                else:
                    self.assertTrue(torch.equal(tensor.grad, expected[name]), (frozen, name))


class Dropout(OperatorTest):
    def masked(self, p, key):
        """Two experts that pass on their input, which is 1: y shows the mask of each token's unit."""
        T, D = 64, 32
        eye = torch.eye(D, device=DEVICE).repeat(2, 1, 1).requires_grad_()
        expert = (torch.arange(T, device=DEVICE) % 2)[:, None]
        x = torch.ones(T, D, device=DEVICE, requires_grad=True)
        y = torch.ops.smoe.moe_mlp(x, expert, torch.ones(T, 1, device=DEVICE), eye, None, eye, None, "relu", p, key)
        return x, y

    def test_the_mask_is_of_the_key(self):
        x, y = self.masked(0.25, 11)
        self.assertEqual(set(y.unique().tolist()), {0.0, torch.tensor(1 / 0.75).item()})
        self.assertAlmostEqual((y == 0).double().mean().item(), 0.25, delta=0.05)
        self.assertTrue(torch.equal(self.masked(0.25, 11)[1], y))
        self.assertFalse(torch.equal(self.masked(0.25, 12)[1], y))
        self.assertTrue(torch.equal(self.masked(0.0, 11)[1], torch.ones_like(y)))
        y.sum().backward()  # the gradient of x is the mask of the forward pass once more
        self.assertTrue(torch.equal(x.grad, y.detach()))


class Refusals(OperatorTest):
    def test_says_what_would_be_right(self):
        case = Case(torch.float32)
        changes = (
            (dict(x=case.x[:, :-1]), r"x must be \[T, D = 24\], got \[37, 23\]"),
            (dict(expert=case.expert.double()), "expert must be int32 or int64"),
            (dict(expert=case.expert[:-1]), r"expert must be \[T = 37, K\]"),
            (dict(weight=case.weight[:, :-1]), "weight must have the shape of expert"),
            (dict(w2=case.w2.transpose(1, 2)), r"w2 must be \[E, D, H\]"),
            (dict(w2=case.w2[0]), r"w1 must be \[E, H, D\] and w2 \[E, D, H\]"),
            (dict(b1=case.b1[:, :-1]), r"b1 must be \[E, H\]"),
            (dict(activation="rely"), "relu"),
        )
        names = ("x", "expert", "weight", "w1", "b1", "w2", "b2", "activation")
        for change, says in changes:
            with self.subTest(says):
                arguments = {**dict(zip(names, case.arguments())), **change}
                with self.assertRaisesRegex(RuntimeError, says):
                    torch.ops.smoe.moe_mlp(**arguments)
        for name in ("x", "expert", "weight", "w1", "b2"):
            arguments = dict(zip(names, case.arguments()))
            arguments[name] = arguments[name].to("meta")
            with self.subTest(name), self.assertRaisesRegex(RuntimeError, "all tensors must be on one device"):
                torch.ops.smoe.moe_mlp(**arguments)
        with self.assertRaisesRegex(RuntimeError, r"dropout must be in \[0, 1\)"):
            torch.ops.smoe.moe_mlp(*case.arguments(), dropout_p=1.0)


    def test_the_backward_pass_by_itself(self):
        case = Case(torch.float32)
        arguments = case.arguments(lambda tensor: tensor.detach())
        for body in ("reference", "grouped", "blocks"):
            if body == "blocks" and DEVICE != "cpu":
                continue
            y, hidden = torch.ops.smoe.moe_mlp_forward(*arguments, 0.0, 0, True, body)

            def backward(gradient, hidden, body=body):
                return torch.ops.smoe.moe_mlp_backward(gradient, *arguments[:7], hidden, "relu", 0.0, 0, [True] * 6, body)

            backward(torch.ones_like(y), hidden)
            with self.subTest(body), self.assertRaisesRegex(RuntimeError, r"gradient must be \[T, D\] = \[37, 24\]"):
                backward(torch.ones_like(y)[:, 1:], hidden)
            for bad in (hidden.new_empty(hidden.size(0) + 1, hidden.size(1)), hidden.double(), hidden[:, 1:]):
                with self.subTest(body), self.assertRaisesRegex(RuntimeError, "hidden must be what moe_mlp_forward"):
                    backward(torch.ones_like(y), bad)


class WhatTorchDemands(OperatorTest):
    """torch.library.opcheck: schema, autograd's registration, shapes of fake tensors, tracing with dynamic shapes."""

    def assert_passes(self, operator, arguments):
        result = torch.library.opcheck(operator, tuple(arguments))
        self.assertEqual(set(result.values()), {"SUCCESS"}, result)
        self.assertEqual(len(result), 4)

    def cases(self):
        for dtype in TOLERANCE:
            for activation, bias in (("relu", True), ("swiglu", False)):
                yield dtype, activation, bias, Case(dtype, T=9, activation=activation, bias=bias)
            # Of whole tiles, so that the grouped body multiplies with at::_grouped_mm.
            yield dtype, "geglu", True, Case(dtype, T=9, D=32, H=48, activation="geglu")
        # Such a gated one in bf16 is for the plain body.
        yield torch.bfloat16, "swiglu", True, Case(torch.bfloat16, T=9, H=5, activation="swiglu")

    def test_moe_mlp(self):
        for dtype, activation, bias, case in self.cases():
            with self.subTest(dtype=dtype, activation=activation, bias=bias):
                self.assert_passes(torch.ops.smoe.moe_mlp.default, case.arguments())
                self.assert_passes(torch.ops.smoe.moe_mlp.default, [*case.arguments(lambda t: t.detach()), 0.25, 7])

    def test_its_two_halves(self):
        for dtype, activation, bias, case in self.cases():
            plain = dtype == torch.float64 or case.w2.size(2) % 2 == 1 or DEVICE != "cpu"
            *tensors, name = case.arguments(lambda t: t.detach())
            for body in ("reference", "grouped") if plain else ("reference", "grouped", "blocks"):
                self.check_halves(body, tensors, name, bias)

    def check_halves(self, body, tensors, name, bias):
        for keep in (False, True):
            with self.subTest(body=body, dtype=tensors[0].dtype, activation=name, keep=keep):
                arguments = [*tensors, name, 0.25, 7, keep, body]
                self.assert_passes(torch.ops.smoe.moe_mlp_forward.default, arguments)
        y, hidden = torch.ops.smoe.moe_mlp_forward(*tensors, name, 0.25, 7, True, body)
        for wanted in ([True, True, True, bias, True, bias], [True, False, True, False, False, False]):
            with self.subTest(body=body, dtype=tensors[0].dtype, activation=name, wanted=wanted):
                arguments = [torch.ones_like(y), *tensors, hidden, name, 0.25, 7, wanted, body]
                self.assert_passes(torch.ops.smoe.moe_mlp_backward.default, arguments)

    def test_the_parts(self):
        smoe = torch.ops.smoe
        for dtype in TOLERANCE:
            case = Case(dtype, T=9, D=32, H=48)
            for align, kernel in ((1, "auto"), (16, "auto"), (16, "grouped")):
                with self.subTest(dtype=dtype, align=align, kernel=kernel), forced_kernel(kernel):
                    self.assert_passes(smoe.dispatch.default, [case.x, case.expert, 5, align])
                    rows, offsets, slot, place = smoe.dispatch(case.x.detach(), case.expert, 5, align)
                    for bias in (None, case.b1):
                        self.assert_passes(smoe.expert_gemm.default,
                                           [rows.clone().requires_grad_(), offsets, case.w1, bias])
                    for weight in (None, case.weight):
                        self.assert_passes(smoe.combine.default, [rows.clone().requires_grad_(), weight, slot, place])

    def test_what_the_parts_send_back(self):
        smoe = torch.ops.smoe
        for dtype in TOLERANCE:
            case = Case(dtype, T=9, D=32, H=48)
            x, w, b, weight = (t.detach() for t in (case.x, case.w1, case.b1, case.weight))
            rows, offsets, slot, place = smoe.dispatch(x, case.expert, 5, 16)
            gradient = smoe.expert_gemm(rows, offsets, w, b)
            choices = ("auto", [True, True, True]), ("grouped", [True, True, True]), ("auto", [False, False, True])
            for kernel, wanted in choices:
                with self.subTest(dtype=dtype, kernel=kernel, wanted=wanted), forced_kernel(kernel):
                    self.assert_passes(smoe.expert_gemm_backward.default,
                                       [gradient, rows if wanted[1] else None, offsets, w, b, wanted])
            for held, factor in ((rows, weight), (None, weight), (None, None)):
                with self.subTest(dtype=dtype, weight=factor is not None, rows=held is not None):
                    self.assert_passes(smoe.combine_backward.default, [x, held, factor, slot, place])

    def test_shapes_without_numbers(self):
        for dtype in TOLERANCE:
            case = Case(dtype)
            y = torch.ops.smoe.moe_mlp(*case.arguments(lambda t: t.to("meta")))
            self.assertEqual((y.shape, y.dtype, y.device.type), (case.x.shape, dtype, "meta"))


def mixture_of_parts(x, expert, weight, w1, b1, w2, b2, activation, align=1):
    """moe_mlp put together from its parts, with what stands between the matrices in Python."""
    rows, offsets, slot, place = torch.ops.smoe.dispatch(x, expert, w1.size(0), align)
    hidden = library.activate(torch.ops.smoe.expert_gemm(rows, offsets, w1, b1), activation)
    return torch.ops.smoe.combine(torch.ops.smoe.expert_gemm(hidden, offsets, w2, b2), weight, slot, place)


class Parts(OperatorTest):
    def assert_equals_moe_mlp(self, case, run=mixture_of_parts, **options):
        inputs = list(case.inputs().values())
        found, whole = run(*case.arguments(), **options), torch.ops.smoe.moe_mlp(*case.arguments())
        tolerance = 2 * TOLERANCE[case.x.dtype]
        self.assertEqual((found.dtype, found.shape), (whole.dtype, whole.shape))
        self.assertLess(relative_error(found, whole), tolerance)
        gradient = torch.randn(found.shape, generator=torch.Generator().manual_seed(9)).to(found)
        pairs = zip(case.inputs(), torch.autograd.grad(found, inputs, gradient),
                    torch.autograd.grad(whole, inputs, gradient))
        for name, each, expected in pairs:
            self.assertEqual(each.dtype, expected.dtype, name)
            self.assertLess(relative_error(each, expected), 2 * gradient_tolerance(case), name)

    def test_make_the_mixture(self):
        empty = torch.tensor([[-1, 2], [3, 1], [7, -1], [2, 0]])
        for dtype in TOLERANCE:
            for shape in (dict(), dict(T=0), dict(T=1, K=1), dict(K=5), dict(bias=False), dict(D=1, H=1, E=1, K=1),
                          dict(T=4, expert=empty), dict(activation="swiglu"), dict(T=130, D=64, H=32, E=16, K=3)):
                for align in (1, 16):
                    with self.subTest(dtype=dtype, shape=shape, align=align):
                        self.assert_equals_moe_mlp(Case(dtype, **shape), align=align)

    def test_compiled_for_any_number_of_tokens(self):
        torch._dynamo.reset()
        compiled = torch.compile(mixture_of_parts, backend="aot_eager", fullgraph=True, dynamic=True)
        for T in (37, 8):
            for dtype in TOLERANCE:
                with self.subTest(T=T, dtype=dtype):
                    self.assert_equals_moe_mlp(Case(dtype, T=T), run=compiled)

    def test_an_expert_of_ones_own(self):
        # Low-rank matrices beside the first, which moe_mlp does not compute, against the mixture with their product in it.
        case = Case(torch.float64)
        draw = torch.Generator().manual_seed(4)
        down, up = (torch.randn(*shape, generator=draw, dtype=torch.float64).to(DEVICE)
                    for shape in ((5, 2, 24), (5, 40, 2)))
        rows, offsets, slot, place = torch.ops.smoe.dispatch(case.x, case.expert, 5)
        hidden = torch.ops.smoe.expert_gemm(rows, offsets, case.w1, case.b1)
        beside = torch.ops.smoe.expert_gemm(torch.ops.smoe.expert_gemm(rows, offsets, down), offsets, up)
        out = torch.ops.smoe.expert_gemm(torch.relu(hidden + beside), offsets, case.w2, case.b2)
        y = torch.ops.smoe.combine(out, case.weight, slot, place)
        expected = torch.ops.smoe.moe_mlp(case.x, case.expert, case.weight, case.w1 + up @ down, *case.arguments()[4:])
        self.assertLess(relative_error(y, expected), TOLERANCE[torch.float64])

    def test_refusals(self):
        case = Case(torch.float32)
        rows, offsets, slot, place = torch.ops.smoe.dispatch(case.x, case.expert, 5)
        refused = (
            (lambda: torch.ops.smoe.dispatch(case.x[:-1], case.expert, 5), r"x must be \[T, D\] and expert \[T, K\]"),
            (lambda: torch.ops.smoe.dispatch(case.x, case.expert, 5, 0), "align must be in"),
            (lambda: torch.ops.smoe.expert_gemm(rows, offsets[:-1], case.w1), r"offsets must be int32 \[E \+ 1\]"),
            (lambda: torch.ops.smoe.expert_gemm(rows, offsets, case.w2), r"rows must be \[R, D\]"),
            (lambda: torch.ops.smoe.combine(rows[:-1], None, slot, place), r"rows must be \[R = 74, D\]"),
            (lambda: torch.ops.smoe.combine(rows, case.weight[:-1], slot, place), r"weight must be \[T, K\]"),
            (lambda: torch.ops.smoe.expert_gemm(rows, offsets, case.w1.to("meta")), "must be on one device"),
            (lambda: torch.ops.smoe.expert_gemm_backward(rows, rows, offsets, case.w1, None, [True, True, False]),
             r"gradient must be \[R, N\]"),
            (lambda: torch.ops.smoe.combine_backward(rows, rows, case.weight, slot, place), r"gradient must be \[T = 37, D\]"),
        )
        for call, says in refused:
            with self.subTest(says), self.assertRaisesRegex(RuntimeError, says):
                call()


class Bodies(OperatorTest):
    def test_the_environment_chooses_one(self):
        for name in ("reference", "grouped"):
            for dtype in TOLERANCE:
                for shape in (dict(D=32, H=48), dict(activation="swiglu"), dict(T=0)):
                    with self.subTest(body=name, dtype=dtype, shape=shape), forced_kernel(name):
                        self.assert_equals_the_plain_mixture(Case(dtype, **shape))
        says = "SMOE_KERNEL='fast' is not known; known: auto, reference, grouped"
        with forced_kernel("fast"), self.assertRaisesRegex(RuntimeError, says):
            torch.ops.smoe.moe_mlp(*Case(torch.float32).arguments())


class Compiled(OperatorTest):
    def setUp(self):
        # Compiled code goes where it vanishes.
        folder = tempfile.TemporaryDirectory(prefix="smoe-test-", ignore_cleanup_errors=True)
        self.addCleanup(folder.cleanup)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder.name
        torch._dynamo.reset()

    def test_one_graph_with_the_same_numbers(self):
        def block(x, *rest):
            return x + torch.ops.smoe.moe_mlp(torch.nn.functional.silu(x) * 2, *rest).square()

        # With Inductor as users meet it; it takes its seconds, so the other dtypes go without it.
        for backend, dtypes in (("inductor", [torch.float32]), ("aot_eager", [torch.bfloat16, torch.float64])):
            compiled = torch.compile(block, backend=backend, fullgraph=True, dynamic=True)
            for T, dtype in ((T, dtype) for T in (37, 8) for dtype in dtypes):
                with self.subTest(backend=backend, T=T, dtype=dtype):
                    case = Case(dtype, T=T, activation="swiglu")
                    inputs = list(case.inputs().values())
                    eager, found = block(*case.arguments()), compiled(*case.arguments())
                    self.assertLess(relative_error(found, eager), TOLERANCE[dtype])
                    gradients = zip(case.inputs(), torch.autograd.grad(found.sum(), inputs),
                                    torch.autograd.grad(eager.sum(), inputs))
                    for name, each, expected in gradients:
                        self.assertLess(relative_error(each, expected), 2 * TOLERANCE[dtype], name)


if __name__ == "__main__":
    unittest.main()
