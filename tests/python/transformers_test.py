#!/usr/bin/env python3
"""The experts of transformers' mixtures replaced by smoe::moe_mlp: the same output and the same gradients.

Needs the package transformers, which scripts/bootstrap --tests puts into .venv; skipped without it. Nothing is fetched.
"""

import copy
import os
import re
import tempfile
import unittest

import library
from library import SOURCE, relative_error, torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
WHY_NOT = library.WHY_NOT
if not WHY_NOT:
    try:
        import transformers
        from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
        from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
    except ImportError as error:
        WHY_NOT = f"this Python has no transformers that loads ({error}); scripts/bootstrap --tests puts it into .venv"

SIZES = dict(hidden_size=48, intermediate_size=40, num_experts_per_tok=3, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, vocab_size=60, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def readme_code():
    """The Python block of the README."""
    blocks = re.findall(r"```python\n(.*?)```", (SOURCE / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1, f"README.md has {len(blocks)} Python blocks"
    return blocks[0]


def run_readme(model_folder):
    """Runs that block on a model from a folder in place of the one it names; returns what it defined."""
    code, count = re.subn(r'from_pretrained\("[^"]+"', f"from_pretrained({model_folder!r}", readme_code())
    assert count == 1, code
    code, count = re.subn(r'load_library\("[^"]+"\)', f"load_library({os.environ['SMOE_LIBRARY']!r})", code)
    assert count == 1, code
    defined = {}
    exec(code, defined)
    return defined


def configs():
    """A Mixtral, whose weights of the chosen experts sum to 1, and an OLMoE, where they need not."""
    return {
        "mixtral": transformers.MixtralConfig(num_local_experts=6, **SIZES),
        "olmoe": transformers.OlmoeConfig(num_experts=6, **SIZES),
    }


@unittest.skipIf(WHY_NOT, WHY_NOT)
class ReplacedExperts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        transformers.utils.logging.disable_progress_bar()
        folder = tempfile.TemporaryDirectory(prefix="smoe-test-")
        cls.addClassCleanup(folder.cleanup)
        torch.manual_seed(1)
        transformers.OlmoeForCausalLM(configs()["olmoe"]).save_pretrained(folder.name)
        cls.readme = run_readme(folder.name)

    def block(self, kind, dtype):
        """A layer of experts with random weights, and its copy that computes with smoe."""
        make = {"mixtral": MixtralSparseMoeBlock, "olmoe": OlmoeSparseMoeBlock}[kind]
        config = configs()[kind]
        config._experts_implementation = "eager"
        torch.manual_seed(2)
        eager = make(config)
        with torch.no_grad():
            for parameter in eager.parameters():
                parameter.normal_(0, 0.3)
        eager = eager.to(dtype)
        ours = copy.deepcopy(eager)
        config = copy.deepcopy(config)
        config._experts_implementation = "smoe"
        ours.experts.config = config
        return eager, ours

    def assert_same(self, found, expected, dtype, what):
        # Two bf16 computations that round in different places.
        self.assertLess(relative_error(found, expected), 2e-6 if dtype == torch.float32 else 2e-2, what)

    def test_a_block(self):
        for kind in configs():
            for dtype in (torch.float32, torch.bfloat16):
                with self.subTest(kind=kind, dtype=dtype):
                    eager, ours = self.block(kind, dtype)
                    x = torch.randn(2, 17, 48).to(dtype)
                    results = []
                    for block in (eager, ours):
                        x_own = x.clone().requires_grad_()
                        y = block(x_own)
                        y.float().square().sum().backward()
                        results.append({"y": y, "x": x_own.grad, **{n: p.grad for n, p in block.named_parameters()}})
                    self.assertEqual(results[1]["y"].dtype, dtype)
                    for name, expected in results[0].items():
                        self.assert_same(results[1][name], expected, dtype, name)

    def test_the_sentinel(self):
        # transformers marks slots of experts that live elsewhere with the number of experts.
        eager, ours = self.block("mixtral", torch.float32)
        x, weight = torch.randn(9, 48), torch.rand(9, 3)
        expert = torch.tensor([[0, 6, 3], [6, 6, 6], [5, 1, 6]]).repeat(3, 1)
        y = ours.experts(x, expert, weight)
        self.assert_same(y, eager.experts(x, expert, weight), torch.float32, "y")
        self.assertEqual(y[1].abs().max().item(), 0.0)

    def test_a_whole_model(self):
        ids = torch.randint(3, 60, (2, 21), generator=torch.Generator().manual_seed(4))
        for kind, config in configs().items():
            with self.subTest(kind):
                torch.manual_seed(3)
                model = transformers.AutoModelForCausalLM.from_config(config)
                results = []
                for implementation in ("eager", "smoe"):
                    model.set_experts_implementation(implementation)
                    model.zero_grad()
                    out = model(ids, labels=ids)
                    out.loss.backward()
                    results.append({"logits": out.logits, **{n: p.grad.clone() for n, p in model.named_parameters()}})
                for name, expected in results[0].items():
                    self.assert_same(results[1][name], expected, torch.float32, name)

    def test_the_readme(self):
        # Its model was loaded with its experts; the same weights generate the same text with others.
        model = self.readme["model"]
        self.assertEqual(model.config._experts_implementation, "smoe")
        self.assertLessEqual(len(readme_code().strip().splitlines()), 10)
        ids = torch.tensor([[5, 9, 11, 3]])
        logits, text = [], []
        for implementation in ("smoe", "eager"):
            model.set_experts_implementation(implementation)
            with torch.no_grad():
                logits.append(model(ids).logits)
                text.append(model.generate(ids, max_new_tokens=12, do_sample=False))
        self.assert_same(logits[0], logits[1], torch.float32, "logits")
        self.assertTrue(torch.equal(*text))


if __name__ == "__main__":
    unittest.main()
