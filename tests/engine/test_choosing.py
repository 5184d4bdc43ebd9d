"""Cache policies that say which rows a layer computes: what the others get, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone import CosineSkip, DualCache, Engine, Fixed, Model, NoCache, Settings, Threshold
from skipstone.cache import CacheNeed, CachePolicy, DllmCache, DyllmCache, LayerValues
from skipstone.canvas import Geometry, StepContext
from skipstone.diagnosis.experiment import Choice
from skipstone.engine.observe import StepView, Taps
from skipstone.errors import ConfigError, PolicyError
from skipstone.memory.kept import KeptStates
from skipstone.memory.store import KVStore
from skipstone.models.base import Network
from skipstone.reach import FULL
from skipstone.rows import Rows
from skipstone.tracing import Recorder
from tests.helpers.recorded import replayed
from tests.helpers.watching import Looking, check_each_is_alone, places, prompt_of, uneven_model

BASE = Settings(gen_length=12, block_length=6, eos_stop=False, unmask=Fixed(), steps=8)
GEOMETRY = Geometry(1, 40, 12, 4, 64, torch.float32, torch.device("cpu"))
MODELS = [uneven_model(seed) for seed in range(3)]
PROMPTS = [prompt_of(seed, 4 + 3 * seed) for seed in range(3)]
OWN, FORCED = frozenset[Choice](), frozenset[Choice](("rows", "skip"))
Runner = Literal["eager", "graph"]


@dataclass(frozen=True)
class Sparing(CachePolicy):
    """In some layers computes one row of ``each``, others in each layer and step."""

    layers: tuple[int, ...] = (2, 3, 4)
    each: int = 3
    renews: bool = False
    """Whether it renews the values of rows that it does not compute."""

    @property
    def needs(self) -> frozenset[CacheNeed]:
        return frozenset(("layer_changes",))

    @property
    def chooses_in(self) -> tuple[int, ...]:
        return self.layers

    def rows(self, context: StepContext) -> Rows:
        fresh, others = context.split(lambda at: at.forward == 0)
        return fresh.changed_rows().beside(others.all_rows())

    def rows_in(self, layer: int, values: LayerValues, rows: Rows, context: StepContext) -> Rows:
        assert set(rows.requests) <= set(context.active)
        if self.renews:
            values.renew(rows)
        return self._wanted(layer, rows, context)

    def _wanted(self, layer: int, rows: Rows, context: StepContext) -> Rows:
        forward = np.zeros(context.canvas.batch, np.int64)
        forward[list(context.active)] = [at.forward for at in context.requests]
        wanted = self.wants(layer, forward[rows.request], rows.position)
        return rows.take(np.flatnonzero(wanted))

    def wants(self, layer: int, forward: np.ndarray | int, position: np.ndarray) -> np.ndarray:
        return (position + layer + forward) % self.each == 0


@dataclass(frozen=True)
class SparingMlps(Sparing):
    """The same of MLPs alone."""

    @property
    def needs(self) -> frozenset[CacheNeed]:
        return frozenset(("contexts",))

    @property
    def chooses_in(self) -> tuple[int, ...]:
        return ()

    @property
    def chooses_mlp_in(self) -> tuple[int, ...]:
        return self.layers

    def mlp_rows_in(
        self,
        layer: int,
        before_NW: Tensor,
        context_NW: Tensor,
        rows: Rows,
        context: StepContext,
    ) -> Rows:
        assert before_NW.shape == context_NW.shape == (rows.num_rows, context_NW.shape[1])
        return self._wanted(layer, rows, context)


CACHES = [
    Sparing(),
    Sparing((1, 3), each=2),
    Sparing((4,), each=50),
    Sparing(each=4, renews=True),
    DllmCache(6, 3),
    DllmCache(0, 0, 0.5),
    DyllmCache(0.99, 1, 3),
    DyllmCache(0.9, 2, 0),
    SparingMlps(),
    SparingMlps((1, 4), each=50),
]
each_cache = pytest.mark.parametrize("cache", CACHES, ids=repr)


def tokens(model: Model, cache: CachePolicy, **changes: object) -> tuple[int, ...]:
    settings = replace(BASE, cache=cache, **changes)  # type: ignore[arg-type]
    return Engine(model, settings).generate(PROMPTS[0]).tokens


# --- what is computed -----------------------------------------------------------------------------


class Slowly:
    """The same rule literally, row by row: each layer knows what it added to each position."""

    def __init__(self, network: Network, length: int) -> None:
        self.network = network
        config = network.config
        self.store = KVStore(config, length, network.dtype, network.device)
        self.added = dict[tuple[int, int], Tensor]()

    def logits(self, ids: Tensor, computed: Callable[[int], list[int]], renews: bool) -> Tensor:
        """Logits of all positions, of which a layer computes some."""
        x_ND = self.network.embed(ids)
        for layer in range(1, 5):
            if renews:
                self.store.values[layer - 1, : len(ids)] = self.network.values(layer - 1, x_ND)
            positions = computed(layer)
            if positions:
                rows = self.rows(positions, len(ids))
                angles = self.network.angles(rows)
                entering = x_ND[positions]
                out = self.network.layer(layer - 1, entering, angles, rows, self.store)
                for at, position in enumerate(positions):
                    self.added[layer, position] = out[at] - entering[at]
            changes = [self.added[layer, position] for position in range(len(ids))]
            x_ND = x_ND + torch.stack(changes)
        return self.network.head(self.network.final_norm(x_ND))

    def rows(self, positions: list[int], length: int) -> Rows:
        at = {0: np.array(positions)}
        device = self.network.device
        return Rows.at(at, device, lengths=[length], bases=[0], reaches=[FULL])


@pytest.mark.parametrize("cache", [c for c in CACHES if type(c) is Sparing], ids=repr)
@pytest.mark.parametrize("seed", range(3))
@torch.inference_mode()
def test_a_row_that_is_left_out_gets_what_the_layer_added_to_it_last(
    cache: Sparing, seed: int
) -> None:
    model, prompt, checked = MODELS[seed], PROMPTS[seed], list[int]()
    length = len(prompt) + BASE.gen_length
    slow, everything = Slowly(model.network, length), np.arange(length)

    def look(view: StepView) -> None:
        forward = view.context.only.forward

        def computed(layer: int) -> list[int]:
            if not forward or layer not in cache.layers:
                return everything.tolist()
            return everything[cache.wants(layer, forward, everything)].tolist()

        ids = torch.tensor([*prompt, *view.before.ids_BG[0].tolist()])
        expected = slow.logits(ids, computed, cache.renews and forward > 0)
        assert view.logits_NV is not None
        assert view.scored is not None
        for position, logits in zip(view.scored.position.tolist(), view.logits_NV, strict=True):
            assert torch.allclose(logits, expected[position], atol=5e-5)
            checked.append(position)
        through = set(everything.tolist()).intersection(*(computed(n) for n in range(1, 5)))
        assert places(view.rows) == {(0, p) for p in everything.tolist()}
        assert places(view.finished) == {(0, p) for p in through}

    settings = replace(BASE, cache=cache)
    Engine(model, settings).generate(prompt, observer=Looking(look, Taps(logits=True)))
    assert len(checked) > 12


@pytest.mark.parametrize(
    "cache",
    [
        Sparing(each=1),
        Sparing((1, 2, 3, 4), each=1, renews=True),
        DllmCache(1, 1),
        SparingMlps(each=1),
        SparingMlps((1, 2, 3, 4), each=1),
        DyllmCache(1.0, 1, 1),
    ],
    ids=repr,
)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_all_rows_in_each_layer_are_the_exact_run(model: Model, cache: CachePolicy) -> None:
    one, other = Recorder("full"), Recorder("full")
    for each, recorder in ((NoCache(), one), (cache, other)):
        Engine(model, BASE, cache=each).generate(PROMPTS[0], observer=recorder)
    # Bit for bit, states, keys and values of each layer among it.
    for key in one.trace.keys(0):
        mine, theirs = (recorder.trace.tensor(0, key) for recorder in (one, other))
        assert mine is not None
        assert theirs is not None
        assert (mine.values == theirs.values).all()


@each_cache
def test_what_is_left_out_makes_a_difference(cache: CachePolicy) -> None:
    exact = [tokens(model, NoCache(), steps=12) for model in MODELS]
    assert [tokens(model, cache, steps=12) for model in MODELS] != exact


@each_cache
def test_what_was_not_computed_is_counted(cache: CachePolicy) -> None:
    result = Engine(MODELS[1], BASE, cache=cache).generate(PROMPTS[1])
    halves = bool(cache.start(GEOMETRY).chooses_mlp_in)
    of_layers = [(s.skippable_row_layers, s.skipped_row_layers) for s in result.stats.steps]
    of_mlps = [(s.skippable_mlps, s.skipped_mlps) for s in result.stats.steps]
    counted, others = (of_mlps, of_layers) if halves else (of_layers, of_mlps)
    assert set(others) == {(0, 0)}
    assert result.stats.steps[0].refresh
    assert counted[0] == (0, 0)
    if isinstance(cache, Sparing):
        length = len(PROMPTS[1]) + BASE.gen_length
        at = np.arange(length)
        for forward, found in enumerate(counted[1:], 1):
            done = sum(cache.wants(layer, forward, at).sum() for layer in cache.layers)
            assert found == (length * len(cache.layers), length * len(cache.layers) - done)
    share = result.stats.mlp_share if halves else result.stats.skip_share
    assert 0 < share <= 1


# --- what is kept ---------------------------------------------------------------------------------


@each_cache
@pytest.mark.parametrize("changes", [{}, {"suffix_window": 3}, {"growing_canvas": True}], ids=str)
def test_nothing_is_taken_that_was_not_kept_of_this_request(
    monkeypatch: pytest.MonkeyPatch, cache: CachePolicy, changes: dict[str, object]
) -> None:
    right = [tokens(model, cache, **changes) for model in MODELS]
    forget = KeptStates.forget

    def poisoning(self: KeptStates, base: int, length: int) -> None:
        forget(self, base, length)
        for states_CD in self._states.values():
            states_CD[base : base + length] = torch.nan

    empty = Tensor.new_empty

    def poisoned(self: Tensor, *shape: int) -> Tensor:
        return empty(self, *shape).fill_(torch.nan)

    monkeypatch.setattr(KeptStates, "forget", poisoning)
    monkeypatch.setattr(Tensor, "new_empty", poisoned)
    for model, wanted in zip(MODELS, right, strict=True):
        engine = Engine(model, BASE, slots=1, **changes)  # type: ignore[arg-type]
        others = [engine.submit(p, cache=cache) for p in PROMPTS[1:]]
        last = engine.submit(PROMPTS[0], cache=cache)
        assert last.result(60).tokens == wanted
        assert all(other.result(60).tokens for other in others)


def test_law_1_what_is_kept_is_kept_by_position(monkeypatch: pytest.MonkeyPatch) -> None:
    right = [tokens(model, Sparing()) for model in MODELS]

    def by_row(self: KeptStates, layer: int, rows: Rows) -> Tensor:
        return self._states[layer][: rows.num_rows].clone()

    # The control: the n-th row takes what the n-th cell has.
    monkeypatch.setattr(KeptStates, "take", by_row)
    assert [tokens(model, Sparing()) for model in MODELS] != right


@each_cache
@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_law_7_each_is_alone_beside_other_caches(cache: CachePolicy, runner: Runner) -> None:
    caches = [cache, DualCache(), Sparing((3,)), cache, NoCache(), cache, DualCache(2)]
    check_each_is_alone(Engine(MODELS[1], BASE, runner=runner, slots=3), caches)


@each_cache
@pytest.mark.parametrize("unmask", [Fixed(), Threshold(0.4)], ids=repr)
def test_law_3_eager_is_graph(cache: CachePolicy, unmask: Fixed | Threshold) -> None:
    for model in MODELS:
        settings = replace(BASE, cache=cache, unmask=unmask)
        eager = Engine(model, settings, runner="eager").generate_batch(PROMPTS)
        graph = Engine(model, settings, runner="graph").generate_batch(PROMPTS)
        assert [one.tokens for one in graph] == [one.tokens for one in eager]


@pytest.mark.parametrize("forced", [OWN, FORCED], ids=["own", "forced"])
@each_cache
def test_a_recorded_run_is_replayed_bit_for_bit(
    tmp_path: Path, cache: CachePolicy, forced: frozenset[Choice]
) -> None:
    engine = Engine(MODELS[1], replace(BASE, cache=cache))
    for one, other, _ in replayed(engine, PROMPTS[1], forced, tmp_path / "run"):
        assert (one.finished == other.finished).all()
        assert (one.finished_age == other.finished_age).all()


# --- what is refused ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strange(Sparing):
    """Chooses rows of another request."""

    def rows_in(self, layer: int, values: LayerValues, rows: Rows, context: StepContext) -> Rows:
        return Rows.at({9: np.arange(1)}, rows.device, lengths=[1], bases=[0], reaches=[FULL])


@dataclass(frozen=True)
class StrangeMlps(SparingMlps):
    """Chooses MLPs of another request."""

    def mlp_rows_in(
        self,
        layer: int,
        before_NW: Tensor,
        context_NW: Tensor,
        rows: Rows,
        context: StepContext,
    ) -> Rows:
        return Rows.at({9: np.arange(1)}, rows.device, lengths=[1], bases=[0], reaches=[FULL])


@dataclass(frozen=True)
class Renewing(Strange):
    """Renews values of another request."""

    def rows_in(self, layer: int, values: LayerValues, rows: Rows, context: StepContext) -> Rows:
        values.renew(super().rows_in(layer, values, rows, context))
        return rows


@dataclass(frozen=True)
class Vague(Sparing):
    """Says something else than rows."""

    def rows_in(self, layer: int, values: LayerValues, rows: Rows, context: StepContext) -> Rows:
        return [0, 1]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (Strange(), "Strange names position 0 of slot 9 in layer 2"),
        (StrangeMlps(), "StrangeMlps names position 0 of slot 9 in layer 2"),
        (Renewing(), "position 0 of slot 9 in layer 2"),
    ],
    ids=repr,
)
def test_rows_of_others_are_refused(cache: CachePolicy, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Engine(MODELS[0], BASE, cache=cache).generate_batch(PROMPTS)


def test_what_is_no_rows_ends_the_requests_that_share_the_policy_and_no_others() -> None:
    engine = Engine(MODELS[0], BASE, slots=3)
    handles = [engine.submit(PROMPTS[0], cache=c) for c in (Vague(), DllmCache(), Sparing())]
    with pytest.raises(PolicyError, match="names rows with list, must be Rows"):
        handles[0].result(60)
    for handle, cache in zip(handles[1:], (DllmCache(), Sparing()), strict=True):
        assert handle.result(60).tokens == tokens(MODELS[0], cache)


@dataclass(frozen=True)
class Silent(Sparing):
    """Does not say what it needs."""

    @property
    def needs(self) -> frozenset[CacheNeed]:
        return frozenset()


@dataclass(frozen=True)
class SilentMlps(SparingMlps):
    """Nor does this one."""

    @property
    def needs(self) -> frozenset[CacheNeed]:
        return frozenset(("layer_changes",))


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (Silent(), "add 'layer_changes'"),
        (Sparing((0,)), "chooses rows in layer 0, must be 1 to 4"),
        (Sparing((5,)), "chooses rows in layer 5, must be 1 to 4"),
        (SilentMlps(), "chooses rows of the MLP in layer 2, .*add 'contexts'"),
        (SparingMlps((5,)), "chooses rows of the MLP in layer 5, must be 1 to 4"),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_refused_before_the_first_prompt(
    cache: CachePolicy, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Engine(MODELS[0], BASE, cache=cache)
    with pytest.raises(ConfigError, match=message):
        Engine(MODELS[0], BASE).submit(PROMPTS[0], cache=cache)


def test_a_skip_beside_it_is_refused_with_the_reason() -> None:
    for cache in (DllmCache(), DyllmCache()):
        with pytest.raises(ConfigError, match="both say which rows a layer computes"):
            Engine(MODELS[0], BASE, cache=cache, skip=CosineSkip(3))


def test_who_does_not_ask_pays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError

    monkeypatch.setattr(KeptStates, "keep", never)
    for cache in (NoCache(), DualCache()):
        tokens(MODELS[0], cache)
    for asking in (DllmCache(), DyllmCache()):
        with pytest.raises(AssertionError):
            tokens(MODELS[0], asking)
