"""An observer of one request sees it as if it were alone, whoever is decoded beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from skipstone import (
    ConfigError,
    DualCache,
    Engine,
    Factor,
    Fixed,
    NoCache,
    NoSkip,
    PrefixCache,
    Result,
    Settings,
    StalledError,
    Threshold,
)
from skipstone.cache import DelayedCache, DllmCache, DyllmCache, ElasticCache, SparseCache
from skipstone.engine.layout import Layout
from skipstone.engine.loop import Loop
from skipstone.engine.observe import Board, StepView, Taps
from skipstone.engine.request import Handle
from skipstone.engine.settings import SettingsFields
from skipstone.errors import DeadlockError
from skipstone.models.load import Model
from skipstone.record import RunRecord, TraceWriter, open_trace
from skipstone.skip import SkipPolicy
from skipstone.testing.tiny import tiny_model
from skipstone.tracing import Recorder
from skipstone.tracing.diagnose import diagnose
from skipstone.tracing.record.recorder import Level
from skipstone.unmask import Editing, Wino
from tests.helpers.waiting import standing
from tests.helpers.watching import LOW, Looking, prompt_of
from tests.laws.test_laws import Shy
from tests.models.test_contracts import CONFIGS

MODELS = {
    "dense": tiny_model(2, norm_noise=0.2, dtype=torch.float32, eos_scale=1.3),
    "block-causal": tiny_model(
        3, config=CONFIGS["block-causal"], norm_noise=0.2, dtype=torch.float32
    ),
}
# What prompts take over from each other depends on who came before; see test_prefix.
BASE = Settings(
    gen_length=16, block_length=4, unmask=Fixed(), cache=DualCache(), reuse_prefix=False
)
WATCHED: list[SettingsFields] = [
    {},
    {"cache": NoCache(), "unmask": Threshold(0.3), "gen_length": 12},
    {"cache": PrefixCache(), "unmask": Fixed("entropy"), "gen_length": 8},
    {"cache": DualCache(refresh_every=2), "unmask": Factor(1.0), "temperature": 0.7, "seed": 5},
    {"cache": DelayedCache(4), "unmask": Editing(0.3, 0.1, post_steps=2), "gen_length": 20},
    {"unmask": Wino(), "block_length": 8},
    {"unmask": Fixed("margin"), "steps": 5, "budget": "stop"},
    {"unmask": Threshold(0.3)},
]
# They decide in the midst of a forward, for some of the requests in it.
SPARING: list[SettingsFields] = [
    {"cache": DllmCache(prompt_every=5, response_every=3)},
    {"cache": SparseCache(), "unmask": Threshold(0.3)},
    {},
    {"cache": ElasticCache(0.97)},
    {"cache": DyllmCache(0.9, warmup=1)},
    {"cache": SparseCache(keep_ratio=0.3)},
]


@pytest.fixture
def model() -> Model:
    return MODELS["dense"]


@pytest.fixture
def overlapping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are launched before the one before is completed, as on a card."""
    lay_out = Layout.lay_out

    def laid_out(*args: object, **options: object) -> Loop:
        loop = lay_out(*args, **options)  # pyrefly: ignore[bad-argument-type]
        loop.ahead, loop.stepper.overlaps = 1, True
        return loop

    monkeypatch.setattr(Layout, "lay_out", laid_out)


def alone(
    model: Model,
    number: int,
    level: Level = "decisions",
    asked: Sequence[SettingsFields] = WATCHED,
    **changes: object,
) -> tuple[RunRecord, Recorder]:
    recorder = Recorder(level)
    settings = BASE.replace(**{**asked[number], **changes})  # pyrefly: ignore
    Engine(model, settings, runner="eager").generate(
        prompt_of(number, 4 + 3 * number), observer=recorder
    )
    return recorder.records[0], recorder


def assert_same(mine: object, theirs: object, path: str = "") -> None:
    """Equal in every field: numbers that decide nothing to the rounding of a sum."""
    if path.endswith(".seconds"):
        return
    if isinstance(mine, np.ndarray):
        assert isinstance(theirs, np.ndarray), path
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype), path
        if mine.dtype.kind == "f":
            np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-5, err_msg=path)
        else:
            assert np.array_equal(mine, theirs), path
    elif dataclasses.is_dataclass(mine):
        assert type(mine) is type(theirs), path
        for name in vars(mine):
            assert_same(getattr(mine, name), getattr(theirs, name), f"{path}.{name}")
    elif isinstance(mine, tuple):
        assert isinstance(theirs, tuple), path
        assert len(mine) == len(theirs), path
        for at, pair in enumerate(zip(mine, theirs, strict=True)):
            assert_same(*pair, f"{path}[{at}]")
    else:
        assert mine == theirs, path


def busy(
    engine: Engine,
    observers: Sequence[Recorder | Looking | None],
    asked: Sequence[SettingsFields] = WATCHED,
) -> list[Handle]:
    """Requests with observers beside others; some wait for a slot, one is cancelled on the way."""
    lost = engine.submit(prompt_of(98, 9), gen_length=40)
    early = engine.submit(prompt_of(99, 5), gen_length=24, unmask=Threshold(0.3))
    next(iter(early))
    handles = list[Handle]()
    for number, observer in enumerate(observers):
        handles.append(
            engine.submit(
                prompt_of(number, 4 + 3 * number),
                observer=observer,
                **asked[number],
            )
        )
        if number == 2:
            # In the middle of what others do.
            lost.cancel()
            early.result(60)
    return handles


@pytest.mark.parametrize("runner", ["eager", "graph"])
@pytest.mark.parametrize("skip", [NoSkip(), LOW], ids=["no-skip", "skip"])
@pytest.mark.parametrize("name", MODELS)
def test_a_request_of_a_busy_engine_has_the_record_that_it_has_alone(
    name: str, skip: SkipPolicy, runner: str
) -> None:
    model = MODELS[name]
    engine = Engine(model, BASE, skip=skip, runner=runner, slots=5)  # pyrefly: ignore
    recorders = [Recorder() for _ in WATCHED]
    for number, handle in enumerate(busy(engine, recorders)):
        result, (mine,) = handle.result(60), recorders[number].records
        twin, _ = alone(model, number, skip=skip)
        assert_same(mine, twin, WATCHED[number].__repr__())
        assert mine.outcome is not None
        assert mine.outcome.tokens == result.tokens
        assert len(mine.steps) == result.stats.num_forwards


def test_so_it_has_where_steps_overlap(model: Model, overlapping: None) -> None:
    recorders = [Recorder() for _ in WATCHED]
    for number, handle in enumerate(busy(Engine(model, BASE, slots=5), recorders)):
        handle.result(60)
        assert_same(recorders[number].records[0], alone(model, number)[0])


@pytest.mark.parametrize("flies", [False, True])
def test_each_observer_is_shown_the_tensors_that_it_wants(
    model: Model, flies: bool, request: pytest.FixtureRequest
) -> None:
    if flies:
        request.getfixturevalue("overlapping")
    seen = list[StepView]()
    looking, logits = Looking(seen.append), Looking(seen.append, taps=Taps(logits=True))
    recorder = Recorder("full")
    engine = Engine(model, BASE, skip=LOW, slots=5)
    for handle in busy(engine, [looking, logits, None, recorder, None]):
        handle.result(60)
    for view in seen:
        assert not view.states
        assert (view.logits_NV is not None) == (
            view.scored is not None and view.context.only.prompt_length == 7
        )
    assert_same_tensors(recorder, alone(model, 3, "full", skip=LOW)[1])


def assert_same_tensors(mine: Recorder, theirs: Recorder) -> None:
    assert mine.trace.keys(0) == theirs.trace.keys(0)
    for key in theirs.trace.keys(0):
        tensor, twin = mine.trace.tensor(0, key), theirs.trace.tensor(0, key)
        assert tensor is not None
        assert twin is not None
        assert np.array_equal(tensor.positions, twin.positions)
        np.testing.assert_allclose(tensor.values, twin.values, rtol=1e-3, atol=1e-4)


def test_so_it_has_beside_others_whose_cache_hides_keys_or_chooses_rows(model: Model) -> None:
    engine, recorders = Engine(model, BASE, slots=4), [Recorder("full") for _ in SPARING]
    for number, handle in enumerate(busy(engine, recorders, SPARING)):
        handle.result(60)
        twin, recorder = alone(model, number, "full", SPARING)
        assert_same(recorders[number].records[0], twin)
        assert_same_tensors(recorders[number], recorder)


@pytest.mark.parametrize("taps", [Taps(), Taps(logits=True)], ids=repr)
def test_only_a_step_that_is_looked_into_is_waited_for(
    model: Model, overlapping: None, taps: Taps, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, flying = Loop._launch, list[bool]()

    def launched(self: Loop) -> bool:
        flying.extend(flight.tapped for flight in self._flying)
        return launch(self)

    monkeypatch.setattr(Loop, "_launch", launched)
    engine = Engine(model, BASE, eos_stop=False)
    engine.submit(prompt_of(0, 4), observer=Looking(lambda view: None, taps=taps)).result(60)
    assert flying == [] if taps else len(flying) > 10
    # Of the others nobody wants anything.
    engine.submit(prompt_of(0, 4)).result(60)
    assert len(flying) > 10
    assert not any(flying)


def test_a_view_is_that_of_a_batch_of_one(model: Model) -> None:
    def look(view: StepView) -> None:
        at, canvas, rows = view.context.only, view.context.canvas, view.rows
        views.append(view)
        assert (at.slot, canvas.batch, canvas.gen_length) == (0, 1, 12)
        assert canvas.ids_BL.shape == (1, at.prompt_length + 12) == view.entered_at_BL.shape
        assert canvas.ids_BL[0, : at.prompt_length].tolist() == prompt_of(1, 7)
        assert canvas.written_BG().tolist() == view.after.ids_BG.tolist()
        assert set(rows.request.tolist()) == {0}
        assert rows.requests == (0,)
        assert view.context.block_BG.shape == view.commit_BG.shape == (1, 12)
        changed = view.before.ids_BG != view.after.ids_BG
        assert changed[view.commit_BG.numpy()].all()
        # Others in the batch have asked for entropies.
        assert [*view.board.tables] == [field.name for field in dataclasses.fields(Board)[:5]]
        assert all(table.shape == (1, 12) for table in view.board.tables.values())

    views = list[StepView]()
    handles = busy(Engine(model, BASE, slots=5), [None, Looking(look), None])
    assert handles[1].result(60).stats.num_forwards == len(views)


def test_observed_or_not_the_tokens_are_the_same(model: Model) -> None:
    watched = busy(Engine(model, BASE, slots=5), [Recorder("full") for _ in WATCHED])
    plain = busy(Engine(model, BASE, slots=5), [None for _ in WATCHED])
    for mine, theirs in zip(watched, plain, strict=True):
        assert mine.result(60).tokens == theirs.result(60).tokens
        assert mine.result().stats.steps == theirs.result().stats.steps


def test_a_trace_of_a_busy_engine_is_diagnosed_as_that_of_the_request_alone(
    model: Model, tmp_path: Path
) -> None:
    number, other = 0, {"unmask": Threshold(0.3)}
    engine = Engine(model, BASE, slots=5)
    with TraceWriter(tmp_path / "busy") as sink:
        busy(engine, [Recorder("full", sink=sink), None, None])[number].result(60)
        # It is closed already: on_end came before the result.
        assert open_trace(tmp_path / "busy").records[0].outcome is not None
    fast = alone(model, number, **other)[1]
    found = diagnose(tmp_path / "busy", fast, model=model)
    twin = diagnose(alone(model, number)[1], fast, model=model)
    assert found.parted
    assert found.cause is not None
    assert twin.cause is not None
    assert (found.cause.rule, found.cause.where, found.cause.proof) == (
        twin.cause.rule,
        twin.cause.where,
        twin.cause.proof,
    )


class Failing(Looking):
    """Raises at one of its calls, and counts them."""

    def __init__(self, at: str) -> None:
        super().__init__(lambda view: self.told("on_step"))
        self.at, self.calls = at, list[str]()

    def told(self, name: str) -> None:
        self.calls.append(name)
        if name == self.at and self.calls.count(name) == (2 if name == "on_step" else 1):
            raise ZeroDivisionError(name)

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        self.told("on_start")

    def on_end(self, results: Sequence[Result]) -> None:
        self.told(f"on_end of {len(results)}")


@pytest.mark.parametrize("at", ["on_start", "on_step", "on_end of 1"])
@pytest.mark.parametrize("flies", [False, True])
def test_an_error_of_an_observer_ends_its_request_alone(
    model: Model, at: str, flies: bool, request: pytest.FixtureRequest
) -> None:
    if flies:
        request.getfixturevalue("overlapping")
    failing, recorder = Failing(at), Recorder()
    engine = Engine(model, BASE, slots=5)
    first, second, third = busy(engine, [failing, recorder, None])
    with pytest.raises(ZeroDivisionError, match=at):
        first.result(60)
    # Whoever has raised is left alone.
    assert failing.calls[-1] == at
    assert failing.calls[0] == "on_start"
    second.result(60)
    assert_same(recorder.records[0], alone(model, 1)[0])
    plain = BASE.replace(**WATCHED[2])
    assert third.result(60).tokens == Engine(model, plain).generate(prompt_of(2, 10)).tokens


def test_a_record_is_closed_when_its_request_is_cancelled_or_fails(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(model, BASE, slots=5)
    lost, broken = TraceWriter(tmp_path / "lost"), TraceWriter(tmp_path / "broken")
    with standing(engine, after=4):
        handle = engine.submit(prompt_of(0, 4), observer=Recorder(sink=lost), gen_length=64)
        next(iter(handle))
        handle.cancel()
    stalled = engine.submit(prompt_of(1, 4), observer=Recorder(sink=broken), unmask=Shy(True))
    with pytest.raises(StalledError):
        stalled.result(60)
    failing = Failing("on_end of 0")
    with standing(engine, after=4):
        handle = engine.submit(prompt_of(2, 4), observer=failing, gen_length=64)
        next(iter(handle))
        handle.cancel()
    engine.generate(prompt_of(3, 4))
    for name in ("lost", "broken"):
        # Closed: the log beside the database is gone.
        assert not list((tmp_path / name).glob("*-wal"))
        record = open_trace(tmp_path / name).records[0]
        assert record.outcome is None
        assert record.steps
    assert failing.calls[-1] == "on_end of 0"
    assert "on_end" in caplog.text


def test_an_observer_watches_one_request_at_a_time(model: Model) -> None:
    engine, recorder = Engine(model, BASE, slots=1), Recorder()
    with standing(engine, after=3):
        first = engine.submit(prompt_of(0, 4), observer=recorder, gen_length=64)
        with pytest.raises(ConfigError, match="watches another request; give each request its own"):
            engine.submit(prompt_of(1, 7), observer=recorder)
        first.cancel()
    engine.generate(prompt_of(3, 4))
    engine.submit(prompt_of(1, 7), observer=recorder, **WATCHED[1]).result(60)
    assert_same(recorder.records[0], alone(model, 1)[0])


def test_what_is_no_observer_is_refused_at_once(model: Model) -> None:
    with pytest.raises(ConfigError, match="observer is 'x', which has no on_start"):
        Engine(model, BASE).submit(prompt_of(0, 4), observer="x")  # pyrefly: ignore


def test_a_request_that_never_begins_is_never_observed(model: Model) -> None:
    engine, failing = Engine(model, BASE, slots=1), Failing("never")
    with standing(engine, after=3):
        early = engine.submit(prompt_of(0, 4), gen_length=64)
        late = engine.submit(prompt_of(1, 4), observer=failing)
        late.cancel()
    early.result(60)
    engine.generate(prompt_of(3, 4))
    assert failing.calls == []


def test_an_observer_may_not_wait_for_its_own_request(model: Model) -> None:
    def look(view: StepView) -> None:
        handles[0].result()

    engine, handles = Engine(model, BASE, slots=5), list[Handle]()
    with standing(engine):
        engine.submit(prompt_of(9, 4), gen_length=64)
        handles.append(engine.submit(prompt_of(0, 4), observer=Looking(look)))
    handles[0].wait(60)
    assert isinstance(handles[0].exception(), DeadlockError)


class TopTokens:
    """Keeps, of each committed position, the most probable tokens when it was committed."""

    taps = Taps(logits=True)

    def __init__(self, count: int) -> None:
        self.count, self.found = count, dict[int, tuple[list[int], list[float]]]()

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        self.mask_id = model.config.mask_id

    def on_step(self, view: StepView) -> None:
        at = view.context.only
        assert view.scored is not None
        assert view.logits_NV is not None
        offset_N = torch.from_numpy(view.scored.position - at.prompt_length)
        mine = view.commit_BG[0, offset_N]
        chances_MV = view.logits_NV[mine].double().log_softmax(-1)
        chances_MV[:, self.mask_id] = -torch.inf
        top = chances_MV.topk(self.count)
        for offset, tokens, values in zip(
            offset_N[mine].tolist(), top.indices, top.values, strict=True
        ):
            self.found[offset] = tokens.tolist(), values.tolist()

    def on_end(self, results: Sequence[Result]) -> None:
        (self.result,) = results


def test_log_probabilities_of_committed_tokens_can_be_kept(model: Model) -> None:
    observers = [TopTokens(3) for _ in range(8)]
    engine = Engine(model, BASE, unmask=Threshold(0.3), eos_stop=False, slots=8)
    handles = [
        engine.submit(prompt_of(n, 4 + n), observer=observer)
        for n, observer in enumerate(observers)
    ]
    for number, (handle, observer) in enumerate(zip(handles, observers, strict=True)):
        result, recorder = handle.result(60), Recorder()
        assert observer.result.tokens == result.tokens
        assert sorted(observer.found) == list(range(16))
        engine.generate(prompt_of(number, 4 + number), observer=recorder)
        for step in recorder.records[0].steps:
            for index in np.flatnonzero(step.candidates.committed):
                offset = int(step.candidates.position[index]) - 4 - number
                tokens, values = observer.found[offset]
                assert tokens[0] == result.tokens[offset]
                assert np.exp(values[0]) == pytest.approx(step.candidates.confidence[index], 1e-4)
                assert tokens[1] == step.candidates.runner_up[index]
