"""Shared by all tests: tiny random models, and where the recorded truth lies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from skipstone.canvas import Block, Canvas, RequestStep, StepContext
from skipstone.models.base import ModelConfig
from skipstone.models.llada import LLaDA
from skipstone.models.load import Model
from skipstone.text import Text

ROOT = Path(__file__).parent.parent
VOCAB, MASK, EOS = 64, 62, 63

# Tests run beside each other, and threads that wait for each other cost more than they save: on two
# busy cores a notebook's kernel took twenty times as long. The variable is for the processes that
# tests start.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


LONGEST = (
    "tests/record/test_attacks.py",
    "tests/docs/test_readme.py",
    "tests/docs/test_docs.py",
    "tests/ops/test_kernels.py",
    "faults/tests/test_loops.py",
    "tests/kill/test_kill.py",
    "tests/docs/test_notebook.py",
    "tests/laws/test_golden.py",
    "tests/cli/test_terminal.py",
    "faults/tests/test_bench.py",
    "faults/tests/test_foreign.py",
    "tests/report/test_reading.py",
    "tests/sweep/test_sweep.py",
    "tests/pebble/test_model.py",
)
"""Files that take half a minute and more, about the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files start first, so that no worker is left alone with one of them."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.relative_to(ROOT).as_posix(), len(place)))


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The recorded truth of published code; tests that need it are skipped without it."""
    path = Path(os.environ.get("SKIPSTONE_GOLDEN", ROOT.parent / "shared" / "golden"))
    if not (path / "mha" / "cases.json").exists():
        pytest.skip(f"no golden files in {path}; set SKIPSTONE_GOLDEN")
    return path


def random_model(
    seed: int = 0,
    *,
    num_layers: int = 4,
    num_heads: int = 4,
    num_kv_heads: int = 4,
    sharpness: float = 4.0,
    dtype: torch.dtype = torch.float64,
) -> Model:
    """A random LLaDA, in float64 so that rounding decides nothing.

    Args:
        sharpness: scale of the head; larger gives more confident, more varied choices.
    """
    config = ModelConfig(
        width=32,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        mlp_width=48,
        vocab_size=VOCAB,
        max_length=256,
        rope_theta=10000.0,
        norm_eps=1e-5,
        tied_head=False,
        mask_id=MASK,
        eos_id=EOS,
    )
    network = LLaDA(config, dtype, torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.published().items():
        if "norm" in name or "ln_f" in name:
            tensor.fill_(1.0)
        else:
            scale = sharpness if name == "model.transformer.ff_out.weight" else 1.0
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(noise * scale / tensor.shape[-1] ** 0.5)
    return Model(f"random-{seed}", network, word_text())


def word_text() -> Text:
    """A tokenizer of words w0, w1, ... without a chat template."""
    words = {f"w{i}": i for i in range(VOCAB - 2)} | {"<mask>": MASK, "<eos>": EOS}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(["<mask>", "<eos>"])
    return Text(tokenizer, template=None, special={}, mask_id=MASK, eos_id=EOS, source="words")


def context_at(
    canvas: Canvas, block: Block, step: int, step_budget: int, seeds: Sequence[int] = ()
) -> StepContext:
    """Every request at the same step of the same block; nothing was committed before."""
    places = [
        RequestStep(request, request, length, block, step, step_budget, step, seed)
        for request, (length, seed) in enumerate(
            zip(canvas.prompt_lengths, seeds or [0] * canvas.batch, strict=True)
        )
    ]
    return StepContext(canvas, tuple(places), torch.zeros_like(canvas.ids_BL, dtype=torch.bool))


@pytest.fixture(scope="session")
def model() -> Model:
    """One random model for tests that need any."""
    return random_model()
