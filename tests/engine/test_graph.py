"""Captured layers give what eager ones give. On a CPU the same code runs without the capture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from skipstone import (
    CosineSkip,
    DualCache,
    Engine,
    Factor,
    Fixed,
    NoCache,
    NoSkip,
    PrefixCache,
    Settings,
    Threshold,
)
from skipstone.cache import CachePolicy, OnceCache
from skipstone.engine.forward.graph import Graph
from skipstone.errors import ConfigError
from skipstone.models.load import Model
from skipstone.rows import Rows
from skipstone.skip import RatioSkip, SkipPolicy
from skipstone.testing.tiny import tiny_model
from skipstone.tracing import Recorder
from skipstone.unmask import DreamThreshold, UnmaskPolicy

SKIP = CosineSkip(skip_layer_k=3, skip_threshold=0.9)
RATIO = RatioSkip(keep="0.6@0+0.3@0.5", full_every=5)
BASE = Settings(gen_length=24, block_length=8, eos_stop=False)
PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7]]


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def tokens(engine: Engine, prompts: list[list[int]]) -> list[tuple[int, ...]]:
    return [result.tokens for result in engine.generate_batch(prompts)]


def captured(engine: Engine) -> int:
    assert engine._arena.kept is not None
    return len(engine._arena.kept._graphs)


@pytest.mark.parametrize(
    "cache", [NoCache(), PrefixCache(), DualCache(), DualCache(3), OnceCache(6)], ids=repr
)
@pytest.mark.parametrize(
    "unmask",
    [Fixed(), Threshold(0.3), Factor(2.0), Fixed("entropy", "time"), DreamThreshold(0.3)],
    ids=repr,
)
@pytest.mark.parametrize("skip", [NoSkip(), SKIP, RATIO], ids=["no-skip", "skip", "ratio"])
@pytest.mark.parametrize("batch", [1, 3])
def test_graphs_give_the_tokens_of_the_eager_path(
    model: Model, cache: CachePolicy, unmask: UnmaskPolicy, skip: SkipPolicy, batch: int
) -> None:
    settings = replace(BASE, cache=cache, unmask=unmask, skip=skip)
    eager = tokens(Engine(model, settings, runner="eager"), PROMPTS[:batch])
    engine = Engine(model, settings, runner="graph")
    assert tokens(engine, PROMPTS[:batch]) == eager
    assert tokens(engine, PROMPTS[:batch]) == eager
    assert captured(engine)


def test_a_second_run_uses_what_the_first_captured(model: Model) -> None:
    engine = Engine(model, BASE, runner="graph")
    engine.generate(PROMPTS[0])
    first, kept = captured(engine), engine._arena.kept
    engine.generate(PROMPTS[0][::-1])
    assert engine._arena.kept is kept
    assert captured(engine) == first
    for prompts in ([PROMPTS[1]], [PROMPTS[2]], PROMPTS):
        engine.generate_batch(prompts)
        assert engine._arena.kept is kept


def test_a_second_run_reads_nothing_of_the_first(model: Model) -> None:
    engine = Engine(model, BASE, runner="graph")
    engine.generate(PROMPTS[0])
    assert engine._arena.kept is not None
    with torch.inference_mode():
        engine._arena.kept.store.keys.fill_(torch.nan)
    other = [2, 7, 1, 8, 2]
    assert tokens(engine, [other]) == tokens(Engine(model, BASE, runner="eager"), [other])


def test_batches_of_other_lengths_share_graphs_and_no_padding(model: Model) -> None:
    engine, eager = Engine(model, BASE, runner="graph"), Engine(model, BASE, runner="eager")
    for prompts in ([PROMPTS[0], PROMPTS[1]], [PROMPTS[1], PROMPTS[0]]):
        assert tokens(engine, prompts) == tokens(eager, prompts)
    assert captured(engine)


def stale_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs that go on with the positions of their capture."""
    take = Graph.take

    def stale(self: Graph, rows: Rows, x_ND: Tensor) -> None:
        take(self, self.held or rows, x_ND)

    monkeypatch.setattr(Graph, "take", stale)


def test_positions_that_are_not_renewed_show(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a graph that goes on with the rows of its capture gives other tokens."""
    eager = tokens(Engine(model, BASE, runner="eager"), PROMPTS[:1])
    stale_positions(monkeypatch)
    assert tokens(Engine(model, BASE, runner="graph"), PROMPTS[:1]) != eager


def test_a_traced_run_keeps_states_that_nothing_overwrites(model: Model) -> None:
    eager, graphed = Recorder("full"), Recorder("full")
    settings = replace(BASE, skip=SKIP)
    Engine(model, settings, runner="eager").generate(PROMPTS[0], observer=eager)
    Engine(model, settings, runner="graph").generate(PROMPTS[0], observer=graphed)
    for key in eager.trace.keys(0):
        mine, theirs = (r.trace.tensor(0, key) for r in (eager, graphed))
        assert mine is not None
        assert theirs is not None
        assert (mine.values == theirs.values).all()


def test_an_observer_may_use_the_engine_that_it_watches(model: Model) -> None:
    engine = Engine(model, BASE, runner="graph")
    engine.generate(PROMPTS[0])
    alone = tokens(engine, PROMPTS[:1])

    class Nested(Recorder):
        def on_step(self, view: object) -> None:
            engine.generate(PROMPTS[0][::-1])

    assert [engine.generate(PROMPTS[0], observer=Nested()).tokens] == alone


def test_an_unknown_runner_is_refused_with_the_nearest(model: Model) -> None:
    with pytest.raises(ConfigError, match="did you mean 'graph'"):
        Engine(model, runner="graphs")  # type: ignore[arg-type]
