"""Graphs by bucket on a CPU: padded rows and static tensors, computed by the interpreted kernels.

Run as ``twins.py`` is. Without a GPU nothing is captured, but what goes into a graph, and what of
it is padding, is the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from skipstone import CosineSkip, Engine, Fixed, NoSkip, Settings
from skipstone.engine.graph import Graph, GraphLayers, bucket
from skipstone.engine.loop import Loop
from skipstone.models.load import Model
from skipstone.ops import dispatch
from skipstone.rows import Rows
from skipstone.skip import SkipPolicy
from tests.conftest import random_model
from tests.twins import DEVICE

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="tests/test_cuda.py captures graphs")

PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7]]
SKIP = CosineSkip(skip_layer_k=2, skip_threshold=0.8, skip_outlier=0.0)
BASE = Settings(unmask=Fixed(), gen_length=4, block_length=4, eos_stop=False)


@pytest.fixture(scope="module")
def model() -> Model:
    # Heads of 16: what the kernel of attention takes at least.
    return random_model(2, num_layers=2, num_heads=2, num_kv_heads=2, dtype=torch.float32)


@torch.inference_mode()
def decoded(model: Model, settings: Settings, *, packs: bool, graphs: bool) -> Loop:
    engine = Engine(model, settings, runner="graph" if graphs else "eager")
    run = engine.start(PROMPTS, batch_size=2, graphs=graphs)
    run.batch.runner.packs = packs
    run.decode()
    return run


def tokens(run: Loop) -> dict[int, list[int]]:
    return {one.sample: one.ids_G.tolist() for one in run.done}


@pytest.fixture
def padded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Rows and bucket of each replay; what padding leaves behind is poison for the next one."""
    seen, take = list[tuple[int, int]](), Graph.take

    def noted(self: Graph, rows: Rows, x_ND: torch.Tensor) -> None:
        self.x_ND.fill_(torch.nan)
        take(self, rows, x_ND)
        seen.append((rows.num_rows, self.x_ND.shape[0]))

    monkeypatch.setattr(Graph, "take", noted)
    yield seen
    assert all(size == bucket(rows) for rows, size in seen)


@pytest.mark.parametrize(
    ("skip", "packs"), [(NoSkip(), True), (SKIP, True), (SKIP, False)], ids=["no", "packs", "masks"]
)
def test_padded_rows_give_the_tokens_of_the_eager_path(
    model: Model, padded: list[tuple[int, int]], skip: SkipPolicy, packs: bool
) -> None:
    settings = BASE.replace(skip=skip)
    eager = decoded(model, settings, packs=True, graphs=False)
    with dispatch.served_by("triton"):
        graphed = decoded(model, settings, packs=packs, graphs=True)
    assert tokens(graphed) == tokens(eager)
    assert [one.stats for one in graphed.done] == [one.stats for one in eager.done]
    skipped = sum(step.skipped_row_layers for one in eager.done for step in one.stats)
    assert (skipped > 0) == (skip is SKIP)
    assert any(rows < size for rows, size in padded)
    layers = graphed.batch.runner.layers
    assert isinstance(layers, GraphLayers)
    # One graph serves requests however rows are spread over them.
    assert len(layers._graphs) < len(padded)


def test_buckets_hold_what_is_put_in_and_not_much_more() -> None:
    assert all(count <= bucket(count) < count + 128 for count in range(1, 2049))
    # Below, a step takes as long as reading the weights.
    assert all(bucket(count) <= 1.25 * count for count in range(129, 2049))
    assert sorted({bucket(count) for count in range(1, 65)}) == [16, 32, 48, 64]
