"""What only a GPU can show: captured graphs, and copies that nobody waits for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

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
    load,
)
from skipstone.cache import CachePolicy
from skipstone.models.load import Model
from skipstone.record import TraceWriter, open_trace
from skipstone.rows import Arriving
from skipstone.skip import SkipPolicy
from skipstone.tracing import Recorder
from skipstone.unmask import UnmaskPolicy
from tests.test_store import same

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
    pytest.mark.filterwarnings("ignore:the skip cannot make this run faster"),
]

SKIP = CosineSkip(skip_layer_k=8, skip_threshold=0.99)
PROMPTS = ["Who is Newton, physics?", "Add the numbers 12, 24, 12, 2 one by one."]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def pebble(request: pytest.FixtureRequest) -> Model:
    return load("pebble", device="cuda", dtype=request.param)


@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(), DualCache()], ids=repr)
@pytest.mark.parametrize("unmask", [Fixed(), Threshold(0.9), Factor(1.0)], ids=repr)
@pytest.mark.parametrize("skip", [NoSkip(), SKIP], ids=["no-skip", "skip"])
@pytest.mark.parametrize("batch", [1, 2])
def test_graphs_give_the_tokens_of_the_eager_path(
    pebble: Model, cache: CachePolicy, unmask: UnmaskPolicy, skip: SkipPolicy, batch: int
) -> None:
    settings = Settings(cache=cache, unmask=unmask, skip=skip, gen_length=32, block_length=16)
    eager = Engine(pebble, settings, runner="eager").generate_batch(PROMPTS[:batch])
    graphed = Engine(pebble, settings, runner="graph")
    for _ in range(2):
        again = graphed.generate_batch(PROMPTS[:batch])
        assert [r.tokens for r in again] == [r.tokens for r in eager]


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_step_waits_for_the_gpu_once(pebble: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(pebble, cache=DualCache(), unmask=Fixed(), gen_length=32, block_length=16)
    engine.generate(PROMPTS[0])
    waits, wait = list[int](), Arriving.wait

    def counted(arriving: Arriving) -> np.ndarray:
        waits.append(1)
        return wait(arriving)

    monkeypatch.setattr(Arriving, "wait", counted)
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = engine.generate(PROMPTS[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # One more for the canvas that the run starts from.
    assert len(waits) <= result.stats.num_forwards + 1


@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_a_trace_on_disk_is_what_memory_saw(pebble: Model, tmp_path: Path, runner: str) -> None:
    settings = Settings(unmask=Fixed(), skip=SKIP, gen_length=32, block_length=16)
    engine = Engine(pebble, settings, runner="graph" if runner == "graph" else "eager")
    memory = Recorder()
    engine.generate(PROMPTS[0], observer=memory)
    with TraceWriter(tmp_path / "run.trace") as sink:
        engine.generate(PROMPTS[0], observer=Recorder(sink=sink))
    with open_trace(tmp_path / "run.trace") as trace:
        for mine, theirs in zip(memory.records[0].steps, trace.records[0].steps, strict=True):
            assert mine.committed == theirs.committed
            assert mine.skipped == theirs.skipped
            assert same(mine.candidates, theirs.candidates)
