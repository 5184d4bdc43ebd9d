"""What only a GPU can show: captured graphs, and copies that nobody waits for."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
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
    NotFiniteError,
    PrefixCache,
    Settings,
    Threshold,
    load,
)
from skipstone.bench.random_model import random_model
from skipstone.cache import CachePolicy
from skipstone.engine import step as step_module
from skipstone.engine.engine import RunnerName
from skipstone.engine.loop import Loop
from skipstone.engine.request import Handle
from skipstone.errors import NoRoomError
from skipstone.memory.store import cell_bytes
from skipstone.models.load import Model
from skipstone.models.shapes import SDAR_8B
from skipstone.record import TraceWriter, open_trace
from skipstone.rows import HostCopy
from skipstone.skip import SkipPolicy
from skipstone.tracing import Recorder
from skipstone.unmask import UnmaskPolicy
from tests.record.test_store import same

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
    pytest.mark.filterwarnings("ignore:the skip cannot make this run faster"),
]

SDAR_SHAPE = replace(
    SDAR_8B,
    width=256,
    num_layers=4,
    num_heads=8,
    num_kv_heads=2,
    head_width=32,
    mlp_width=768,
    vocab_size=512,
    mask_id=511,
    eos_id=510,
)
SKIP = CosineSkip(skip_layer_k=8, skip_threshold=0.99)
PROMPTS = ["Who is Newton, physics?", "Add the numbers 12, 24, 12, 2 one by one."]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def pebble(request: pytest.FixtureRequest) -> Model:
    return load("pebble", device="cuda", dtype=request.param)


@pytest.fixture(scope="module")
def exact() -> Model:
    """In float32, where no near-tie hides behind rounding."""
    return load("pebble", device="cuda", dtype="float32")


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


@pytest.mark.parametrize("skip", [NoSkip(), SKIP], ids=["no-skip", "skip"])
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_step_waits_for_the_gpu_once(
    pebble: Model, monkeypatch: pytest.MonkeyPatch, skip: SkipPolicy
) -> None:
    settings = Settings(cache=DualCache(), unmask=Fixed(), gen_length=32, block_length=16)
    engine = Engine(pebble, settings, skip=skip)
    for _ in range(2):
        engine.generate(PROMPTS[0])
    waits, wait = list[int](), HostCopy.wait

    def counted(arriving: HostCopy) -> np.ndarray:
        if arriving.arrived is not None and not arriving.arrived.query():
            waits.append(1)
        return wait(arriving)

    monkeypatch.setattr(HostCopy, "wait", counted)
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = engine.generate(PROMPTS[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # One more for the canvas that the run starts from. What skipped is known when a step lands.
    assert len(waits) <= result.stats.num_forwards + 1


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(), DualCache()], ids=repr)
def test_rows_that_are_packed_away_give_the_tokens_of_masked_ones(
    exact: Model, monkeypatch: pytest.MonkeyPatch, cache: CachePolicy, batch: int
) -> None:
    # In half precision, products of fewer rows round otherwise, and a near-tie falls otherwise.
    settings = Settings(cache=cache, unmask=Fixed(), skip=SKIP, gen_length=32, block_length=16)
    masked, packed = Engine(exact, settings), Engine(exact, settings)
    monkeypatch.setattr(step_module, "MOST_UNPACKED", 1 << 20)
    expected = masked.generate_batch(PROMPTS[:batch])
    monkeypatch.setattr(step_module, "MOST_UNPACKED", 0)
    for _ in range(2):
        found = packed.generate_batch(PROMPTS[:batch])
        assert [r.tokens for r in found] == [r.tokens for r in expected]
        assert [r.stats.skip_share for r in found] == [r.stats.skip_share for r in expected]
    assert expected[0].stats.skip_share > 0


@pytest.mark.parametrize("skip", [NoSkip(), SKIP], ids=["no-skip", "skip"])
@pytest.mark.parametrize("unmask", [Fixed(), Threshold(0.9)], ids=repr)
def test_prompts_that_take_places_in_turn_give_the_tokens_that_they_have_alone(
    unmask: UnmaskPolicy, skip: SkipPolicy
) -> None:
    # In float32 no near-tie hides behind rounding.
    model = load("pebble", device="cuda", dtype="float32")
    settings = Settings(unmask=unmask, skip=skip, gen_length=32, block_length=16)
    prompts = [*PROMPTS, "Who is Newton?", "Sort the words: pear, apple, fig.", PROMPTS[0]]
    together = Engine(model, settings).generate_batch(prompts, batch_size=2)
    for prompt, result in zip(prompts, together, strict=True):
        assert Engine(model, settings, runner="eager").generate(prompt).tokens == result.tokens


def any_request(rng: random.Random) -> tuple[list[int], Settings]:
    """Ids and settings of their own, as users may mix them."""
    unmask = rng.choice([Fixed(), Fixed("random"), Threshold(0.9), Threshold(0.6), Factor(1.0)])
    temperature = rng.choice([0.0, 0.0, 0.7])
    gen_length = rng.choice([7, 16, 24, 40])
    return [rng.randrange(5, 2000) for _ in range(rng.choice([1, 9, 40, 150, 400]))], Settings(
        gen_length=gen_length,
        block_length=rng.choice([5, 8, 16, 32]),
        steps=rng.choice([None, gen_length // 2]),
        cache=rng.choice([NoCache(), PrefixCache(), DualCache(), DualCache(3)]),
        unmask=unmask,
        temperature=temperature,
        seed=rng.randrange(9) if unmask.uses_seed or temperature else None,
        eos_stop=rng.random() < 0.5,
    )


@pytest.fixture(scope="module")
def shared(exact: Model) -> Engine:
    return Engine(exact, slots=4, memory="200MB")


@pytest.mark.parametrize("seed", range(8))
def test_law_7_each_request_gives_what_it_gives_alone(shared: Engine, seed: int) -> None:
    """Random arrivals, lengths, settings and cancellations, under a small budget of rows, too."""
    rng, driver = random.Random(seed), shared._driver
    asked, handles = [any_request(rng) for _ in range(10)], list[Handle]()
    budget = rng.choice([64, 300, 896])
    # Turned by hand, so that arrivals happen at the steps that were drawn.
    driver._owner = threading.current_thread()
    for prompt, chosen in asked:
        request = shared._requests.of_prompt(prompt, "the prompt", chosen)
        handles.append(shared._handle(request, joined=True))
        driver.submit(handles[-1])
        for _ in range(rng.randrange(7)):
            driver._turn()
            if driver._loop is not None:
                driver._loop.scheduler.budget = budget
        if rng.random() < 0.2:
            rng.choice(handles).cancel()
    while driver._turn():
        pass
    driver._owner = driver._loop = None
    for handle, (prompt, chosen) in zip(handles, asked, strict=True):
        if not handle.cancelled():
            alone = Engine(shared.model, chosen, runner="eager", memory="100MB").generate(prompt)
            assert handle.result(0).tokens == alone.tokens
            assert handle.result(0).stats.num_forwards == alone.stats.num_forwards


def test_a_traced_run_flies_and_sees_what_a_waiting_one_sees(
    pebble: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(pebble, unmask=Fixed(), gen_length=32, block_length=16)
    bf16 = pebble.network.dtype == torch.bfloat16
    flown, waited, plain = Recorder(), Recorder(), engine.generate(PROMPTS[0])
    assert engine.generate(PROMPTS[0], observer=flown).tokens == plain.tokens
    assert engine.start([[1, 2, 3]], flown).ahead == 1

    def waits(self: Loop) -> bool:
        return not self._flying

    monkeypatch.setattr(Loop, "_may_launch", waits)
    assert engine.generate(PROMPTS[0], observer=waited).tokens == plain.tokens
    for mine, theirs in zip(flown.records[0].steps, waited.records[0].steps, strict=True):
        assert mine.committed == theirs.committed
        assert (mine.candidates.token == theirs.candidates.token).all()
        assert (mine.candidates.age == theirs.candidates.age).all()
        assert (mine.finished_age == theirs.finished_age).all()
        # A flown step scores what the one before it filled too: other sums in the last bits.
        ours, others = mine.candidates.confidence, theirs.candidates.confidence
        np.testing.assert_allclose(ours, others, rtol=1e-2 if bf16 else 1e-4)


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


@pytest.mark.parametrize("cache", [NoCache(), DualCache()], ids=repr)
@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_float16_that_overflows_is_an_error_that_names_the_layer(
    cache: CachePolicy, runner: RunnerName
) -> None:
    model = load("pebble", device="cuda", dtype="float16")
    engine = Engine(model, cache=cache, gen_length=32, block_length=16, runner=runner)
    # Graphs are captured from the second time on.
    for _ in range(2):
        assert engine.generate(PROMPTS[0]).masks_left == 0
    weights = model.network.published()
    for name in ("ff_proj", "up_proj", "ff_out"):
        weights[f"model.transformer.blocks.4.{name}.weight"].mul_(300)
    assert all(weight.isfinite().all() for weight in weights.values())
    with pytest.raises(NotFiniteError, match=r"layer 5 of 32 is the first .* float16 reaches"):
        engine.generate(PROMPTS[0])


@pytest.mark.parametrize("skip", [NoSkip(), SKIP], ids=["no-skip", "skip"])
@pytest.mark.parametrize("unmask", [Fixed(), Threshold(0.9)], ids=repr)
def test_law_13_no_length_batch_or_mix_captures_or_compiles_anything(
    pebble: Model, unmask: UnmaskPolicy, skip: SkipPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton import knobs

    done, begin = list[str](), torch.cuda.CUDAGraph.capture_begin

    def captured(graph: torch.cuda.CUDAGraph, *args: object, **options: object) -> None:
        done.append("captured")
        begin(graph, *args, **options)  # pyrefly: ignore

    def compiled(*, fn: object, **_: object) -> None:
        done.append(f"compiled {fn}")

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_begin", captured)
    monkeypatch.setattr(knobs.runtime, "jit_post_compile_hook", compiled)
    settings = Settings(unmask=unmask, skip=skip, gen_length=32, block_length=16)
    engine = Engine(pebble, settings, memory="1GB")
    engine.generate([5] * 21)
    assert "captured" in done
    done.clear()
    for lengths in ((22,), (1,), (40, 7), (99, 3, 64), (200,), (16,) * 9, (150, 31, 8, 77, 20)):
        engine.generate_batch([[3 + i, *[5] * (n - 1)] for i, n in enumerate(lengths)])
    assert not done


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_prompts_that_begin_alike_capture_nothing_and_change_nothing(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model("sdar", SDAR_SHAPE, torch.device("cuda"), dtype)
    settings = Settings(unmask=Fixed(), gen_length=32, eos_stop=False)
    engine = Engine(model, settings, memory="1GB")
    system = [3 + (7 * at) % 401 for at in range(301)]
    asked = [[*system[:cut], 5 + cut % 13] for cut in (301, 300, 170, 301, 12, 3, 299)]
    plain = [Engine(model, settings, memory="100MB", reuse_prefix=False).generate(p) for p in asked]
    begin, done = torch.cuda.CUDAGraph.capture_begin, list[str]()

    def captured(graph: torch.cuda.CUDAGraph, *args: object, **options: object) -> None:
        done.append("captured")
        begin(graph, *args, **options)  # pyrefly: ignore

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_begin", captured)
    first = engine.generate(asked[0])
    assert done
    done.clear()
    one_by_one = [engine.generate(prompt) for prompt in asked]
    together = engine.generate_batch([*asked, *asked])
    assert not done
    # Of 302 tokens, all of the 75 whole blocks; then as far as each begins alike.
    assert first.stats.reused == 0
    assert [r.stats.reused for r in one_by_one] == [300, 300, 168, 300, 12, 0, 296]
    assert [r.stats.reused for r in together] == [300, 300, 168, 300, 12, 4, 300] * 2
    if dtype == torch.float32:
        found = [r.tokens for r in (*one_by_one, *together)]
        assert found == [r.tokens for r in plain] * 3


def test_requests_wait_for_room_on_a_card(pebble: Model) -> None:
    asked = [[3 + i] * n for i, n in enumerate((40, 7, 99, 3, 64, 150, 31))]
    settings = Settings(gen_length=32, block_length=16)
    room = 256 * cell_bytes(pebble.config, pebble.network.dtype)
    engine = Engine(pebble, settings, memory=f"{room}b")
    found = [result.tokens for result in engine.generate_batch(asked)]
    if pebble.network.dtype == torch.float32:
        assert found == [engine.generate(ids).tokens for ids in asked]
    with pytest.raises(NoRoomError, match="the prompt has 262 positions"):
        engine.generate([5] * 230)
    with pytest.raises(NoRoomError, match="memory='900TB' is more than there is on cuda"):
        Engine(pebble, settings, memory="900TB").generate([5])
