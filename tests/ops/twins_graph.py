"""Graphs by bucket on a CPU: padded rows and static tensors, computed by the interpreted kernels.

Run as ``twins.py`` is. Without a GPU nothing is captured, but what goes into a graph, and what of
it is padding, is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from skipstone import CosineSkip, Engine, Fixed, NoSkip, Settings
from skipstone.engine.forward.graph import MOST_ROWS, Graph, GraphLayers, bucket, buckets
from skipstone.engine.loop import Loop
from skipstone.engine.request import Done
from skipstone.models.base import MoEConfig
from skipstone.models.llada2 import LLADA2
from skipstone.models.load import Model
from skipstone.ops import backend
from skipstone.ops.model.reference_experts import Router
from skipstone.rows import Rows
from skipstone.skip import SkipPolicy
from skipstone.testing.tiny import tiny_model
from tests.engine.third_party import RandomCache, RandomSkip
from tests.ops.twins import DEVICE

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="tests/engine/test_cuda.py captures graphs")

PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7]]
SKIP = CosineSkip(skip_layer_k=2, skip_threshold=0.8, skip_outlier=0.0)
BASE = Settings(unmask=Fixed(), gen_length=4, block_length=4, eos_stop=False)


@pytest.fixture(scope="module")
def model() -> Model:
    # Heads of 16: what the kernel of attention takes at least.
    return tiny_model(2, num_layers=2, num_heads=2, num_kv_heads=2, dtype=torch.float32)


def with_experts(plain: Model) -> Model:
    """The same shape, with experts in its second layer."""
    router = Router(2, "sigmoid", normalised=True, groups=2, top_groups=1)
    moe = MoEConfig(6, 24, router, choice_bias=True, shared_width=20, first_layer=1)
    config = replace(plain.config, architecture=LLADA2.name, moe=moe)
    return tiny_model(2, config=config, norm_noise=0.3, dtype=torch.float32)


@torch.inference_mode()
def decoded(
    model: Model, settings: Settings, *, packs: bool, graphs: bool
) -> tuple[Loop, list[Done]]:
    engine = Engine(model, settings, runner="graph" if graphs else "eager")
    run = engine.start(PROMPTS, batch_size=2, graphs=graphs)
    run.batch.runner.packs = packs
    return run, run.decode()


def tokens(done: list[Done]) -> list[list[int]]:
    return [one.ids_G.tolist() for one in done]


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
    ("skip", "packs", "experts"),
    [(NoSkip(), True, False), (SKIP, True, False), (SKIP, False, False), (SKIP, False, True)],
    ids=["no", "packs", "masks", "masks-experts"],
)
def test_padded_rows_give_the_tokens_of_the_eager_path(
    model: Model, padded: list[tuple[int, int]], skip: SkipPolicy, packs: bool, experts: bool
) -> None:
    model = with_experts(model) if experts else model
    settings = BASE.replace(skip=skip)
    _, eager = decoded(model, settings, packs=True, graphs=False)
    with backend.served_by("triton"):
        run, graphed = decoded(model, settings, packs=packs, graphs=True)
    assert tokens(graphed) == tokens(eager)
    assert [one.stats for one in graphed] == [one.stats for one in eager]
    skipped = sum(step.skipped_row_layers for one in eager for step in one.stats)
    assert (skipped > 0) == (skip is SKIP)
    assert any(rows < size for rows, size in padded)
    layers = run.batch.runner.layers
    assert isinstance(layers, GraphLayers)
    # One graph serves requests however rows are spread over them.
    assert len(layers._graphs) < len(padded)


THIRD_PARTY = {
    "skip after every layer": (Settings(skip=RandomSkip((), 0.4, 3)), True),
    "skip after one layer, rows masked": (Settings(skip=RandomSkip((2,), 0.5, 5)), False),
    "rows named before each layer": (Settings(cache=RandomCache((2, 3), 0.5, 6)), True),
}


@pytest.mark.parametrize("name", list(THIRD_PARTY))
def test_whatever_policies_choose_padded_rows_give_the_tokens_of_the_eager_path(
    padded: list[tuple[int, int]], name: str
) -> None:
    three = tiny_model(2, num_layers=3, num_heads=2, num_kv_heads=2, dtype=torch.float32)
    settings, packs = THIRD_PARTY[name]
    settings = settings.replace(gen_length=4, block_length=4, eos_stop=False, unmask=Fixed())
    _, eager = decoded(three, settings, packs=True, graphs=False)
    with backend.served_by("triton"):
        _, graphed = decoded(three, settings, packs=packs, graphs=True)
    assert tokens(graphed) == tokens(eager)
    assert [one.stats for one in graphed] == [one.stats for one in eager]
    assert any(rows < size for rows, size in padded)


def test_buckets_hold_what_is_put_in_and_not_much_more() -> None:
    assert all(count <= bucket(count) < count + 256 for count in range(1, 2049))
    # Below, a step takes as long as reading the weights.
    assert all(bucket(count) <= 1.25 * count for count in range(257, 2049))
    assert sorted({bucket(count) for count in range(1, 65)}) == [16, 32, 48, 64]


def test_law_13_no_length_batch_or_mix_needs_another_graph(model: Model) -> None:
    # A refresh and a cached step each: the interpreter is slow.
    engine = Engine(model, BASE.replace(gen_length=2, block_length=2), runner="graph")
    with backend.served_by("triton"):
        engine.generate(PROMPTS[0])
        layers = engine._arena.kept
        assert layers is not None
        (span,) = {shape[:3] for shape in layers._graphs}
        # On a GPU, these are captured before the first step.
        ready = {shape for n in buckets(MOST_ROWS) for shape in layers._shapes_of(span, n)}
        ready |= set(layers._graphs)
        assert len(ready) <= 32
        for lengths in ((7,), (3, 50), (1, 1, 1, 1), (64, 2, 31), (130,)):
            engine.generate_batch([[i, *[5] * (n - 1)] for i, n in enumerate(lengths)])
            assert engine._arena.kept is layers
    assert set(layers._graphs) <= ready


def test_law_13_a_graph_for_each_length_shows(model: Model) -> None:
    """The control: without the kernels a graph knows lengths, and others are none of those."""
    engine = Engine(model, BASE, runner="graph")
    engine.generate(PROMPTS[0])
    layers = engine._arena.kept
    assert layers is not None
    before = set(layers._graphs)
    engine.generate(PROMPTS[1])
    assert set(layers._graphs) > before


def test_rows_of_too_many_requests_take_a_larger_graph_or_none(model: Model) -> None:
    engine = Engine(model, BASE, runner="graph")
    with backend.served_by("triton"):
        engine.generate(PROMPTS[0])
        layers = engine._arena.kept
        assert layers is not None

        def size(requests: int, count: int) -> int | None:
            spans = [(b, 0, count) for b in range(requests)]
            shape = layers._shape(1, 2, Rows.spans(spans, layers.store.keys.device), every=False)
            return None if shape is None else shape.num_rows

        assert size(1, 16) == 16
        assert size(5, 3) == 16
        assert size(16, 1) == 192
        assert size(300, 1) is None
        assert size(2, 1024) == 2048
        assert size(1, 2049) is None
