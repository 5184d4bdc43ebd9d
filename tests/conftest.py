"""Shared by all tests: which start first, a model, and where the recorded truth lies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from skipstone.blocks import Block
from skipstone.canvas import Canvas, RequestStep, StepContext
from skipstone.models.load import Model
from skipstone.testing.tiny import tiny_model

ROOT = Path(__file__).parent.parent

# Tests run beside each other, and threads that wait for each other cost more than they save: on two
# busy cores a notebook's kernel took twenty times as long. The variable is for the processes that
# tests start.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# Workers of a cluster are not to give way to whatever else is going on: a test waits for them.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112


LONGEST = (
    "tests/docs/test_readme.py",
    "tests/ops/test_kernels.py",
    "tests/docs/test_docs.py",
    "faults/tests/test_bench.py",
    "tests/report/test_reading.py",
    "faults/tests/test_foreign.py",
    "tests/kill/test_kill.py",
    "faults/tests/test_loops.py",
    "tests/sweep/test_sweep.py",
    "tests/docs/test_notebook.py",
    "tests/laws/test_golden.py",
    "tests/cli/test_terminal.py",
    "tests/record/test_attacks.py",
    "tests/engine/test_recorded_caches.py",
    "tests/engine/test_driver.py",
    "tests/pebble/test_model.py",
)
"""Files that take twenty seconds and more of a core, about the longest first."""


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
    nothing_BL = torch.zeros_like(canvas.ids_BL, dtype=torch.bool)
    return StepContext(canvas, tuple(places), nothing_BL, canvas.on_host())


@pytest.fixture(scope="session")
def model() -> Model:
    """One random model for tests that need any."""
    return tiny_model()
