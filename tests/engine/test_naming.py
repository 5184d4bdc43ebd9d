"""Cache policies that name rows anew before a layer: who comes in there, and from what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone import CosineSkip, DualCache, Engine, Fixed, Model, NoCache, Settings, Threshold
from skipstone.cache import CacheNeed, CachePolicy, CacheSession
from skipstone.canvas import Geometry, StepContext
from skipstone.diagnosis.experiment import Choice
from skipstone.engine.forward.interventions import Intervention
from skipstone.engine.observe import StepView, Taps
from skipstone.errors import ConfigError
from skipstone.memory.kept import KeptStates
from skipstone.memory.store import KVStore
from skipstone.models.base import Network
from skipstone.ops.model import reference as ops
from skipstone.reach import FULL
from skipstone.rows import Rows
from skipstone.tracing import Recorder
from tests.helpers.recorded import replayed
from tests.helpers.watching import (
    Looking,
    check_each_is_alone,
    places,
    prompt_of,
    uneven_model,
)

BASE = Settings(gen_length=12, block_length=6, eos_stop=False, unmask=Fixed(), steps=8)
MODELS = [uneven_model(seed) for seed in range(3)]
PROMPTS = [prompt_of(seed, 4 + 3 * seed) for seed in range(3)]

Until = Literal["block", "all"]
OWN, FORCED = frozenset[Choice](), frozenset[Choice](("rows", "skip"))


@dataclass(frozen=True)
class Widening(CachePolicy):
    """The block alone in the first layers; before ``layer`` other positions come in, and leave."""

    layer: int = 3
    first: Until = "block"
    then: Until = "all"
    back: int = 0
    """Before this layer the block is alone again; 0: it is not."""

    @property
    def pure(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[CacheNeed]:
        return frozenset(("layer_inputs",))

    @property
    def names_before(self) -> tuple[int, ...]:
        return (self.layer, self.back) if self.back else (self.layer,)

    def rows(self, context: StepContext) -> Rows:
        fresh, others = context.split(lambda at: at.step == 0)
        return fresh.changed_rows().beside(self._of(self.first, others))

    def rows_before(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> Rows:
        assert x_ND.shape[0] == rows.num_rows
        assert set(rows.requests) <= set(context.active)
        return self._of("block" if layer == self.back else self.then, context)

    def _of(self, until: Until, context: StepContext) -> Rows:
        return context.all_rows() if until == "all" else context.block_rows()


def tokens(model: Model, cache: CachePolicy, **changes: object) -> tuple[int, ...]:
    settings = replace(BASE, cache=cache, **changes)  # type: ignore[arg-type]
    return Engine(model, settings).generate(PROMPTS[0]).tokens


# --- what is computed -----------------------------------------------------------------------------


class Slowly:
    """The same rule literally: one position at a time knows what entered each layer there."""

    def __init__(self, network: Network, length: int) -> None:
        self.network = network
        config = network.config
        self.store = KVStore(config, length, network.dtype, network.device)
        self.entered = dict[tuple[int, int], Tensor]()

    def logits(self, ids: Tensor, layers: list[list[int]]) -> dict[int, Tensor]:
        """Logits of what the last layer computes; ``layers`` has the positions of each layer."""
        states = {position: self.network.embed(ids[[position]])[0] for position in layers[0]}
        for layer, positions in enumerate(layers, 1):
            for position, state in states.items():
                self.entered[layer, position] = state
            x_ND = torch.stack([self.entered[layer, position] for position in positions])
            rows = Rows.at(
                {0: np.array(positions)}, x_ND.device, lengths=[len(ids)], bases=[0], reaches=[FULL]
            )
            angles = self.network.angles(rows)
            x_ND = self.network.layer(layer - 1, x_ND, angles, rows, self.store)
            states = dict(zip(positions, x_ND, strict=True))
        return {
            p: self.network.head(self.network.final_norm(x[None]))[0] for p, x in states.items()
        }


@pytest.mark.parametrize(
    "cache", [Widening(2), Widening(3), Widening(4), Widening(2, back=4)], ids=repr
)
@pytest.mark.parametrize("seed", range(3))
@torch.inference_mode()
def test_what_comes_in_goes_on_from_what_entered_there_last(cache: Widening, seed: int) -> None:
    model, prompt, checked = MODELS[seed], PROMPTS[seed], list[int]()
    length = len(prompt) + BASE.gen_length
    slow = Slowly(model.network, length)

    def look(view: StepView) -> None:
        at, everything = view.context.only, list(range(length))
        block = list(range(at.start, at.stop))
        ids = torch.tensor([*prompt, *view.before.ids_BG[0].tolist()])
        layers = [block] * 4
        for layer in range(1, 5):
            if at.step == 0 or (layer >= cache.layer and not 0 < cache.back <= layer):
                layers[layer - 1] = everything
        expected = slow.logits(ids, layers)
        assert view.logits_NV is not None
        assert view.scored is not None
        for position, logits in zip(view.scored.position.tolist(), view.logits_NV, strict=True):
            assert torch.allclose(logits, expected[position], atol=2e-5)
            checked.append(position)
        assert places(view.rows) == {(0, p) for p in layers[0]}
        through = set(everything).intersection(*layers)
        assert places(view.finished) == {(0, p) for p in through}
        assert set(view.finished_at_BL[0].tolist()) <= set(range(at.forward + 1))

    settings = replace(BASE, cache=cache)
    Engine(model, settings).generate(prompt, observer=Looking(look, Taps(logits=True)))
    assert len(checked) > 12


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_all_rows_from_the_first_layer_on_are_the_exact_run(model: Model) -> None:
    exact, dual = tokens(model, NoCache()), tokens(model, DualCache())
    everywhere = Widening(2, first="all")
    assert tokens(model, everywhere) == exact
    # Bit for bit: so are states, keys and values of each layer.
    one, other = Recorder("full"), Recorder("full")
    for cache, recorder in ((NoCache(), one), (everywhere, other)):
        Engine(model, BASE, cache=cache).generate(PROMPTS[0], observer=recorder)
    for key in one.trace.keys(0):
        mine, theirs = (recorder.trace.tensor(0, key) for recorder in (one, other))
        assert mine is not None
        assert theirs is not None
        assert (mine.values == theirs.values).all()
    # The control: what is named last is what counts.
    assert tokens(model, Widening(2, then="block")) == dual


def test_what_comes_in_deep_makes_a_difference() -> None:
    deep = [tokens(model, Widening(3)) for model in MODELS]
    assert deep != [tokens(model, DualCache()) for model in MODELS]
    assert deep != [tokens(model, NoCache()) for model in MODELS]


def test_law_1_rows_that_come_in_take_what_entered_at_their_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = [tokens(model, Widening(3)) for model in MODELS]

    def by_row(self: KeptStates, layer: int, rows: Rows) -> Tensor:
        return self._states[layer][: rows.num_rows].clone()

    # The control: the n-th row takes what the n-th cell has. A base of 0 and all rows hide that.
    monkeypatch.setattr(KeptStates, "take", by_row)
    assert [tokens(model, Widening(3)) for model in MODELS] == right
    narrow = Widening(2, first="all", then="block", back=0)
    wrong = [tokens(model, narrow) for model in MODELS]
    monkeypatch.undo()
    assert wrong != [tokens(model, narrow) for model in MODELS]


@pytest.mark.parametrize("cache", [Widening(2), Widening(3), Widening(2, back=4)], ids=repr)
@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_law_7_each_is_alone_beside_other_caches(cache: Widening, runner: str) -> None:
    engine = Engine(MODELS[1], BASE, runner=runner, slots=3)  # type: ignore[arg-type]
    caches = [cache, DualCache(), Widening(4), cache, NoCache(), cache, DualCache(2)]
    check_each_is_alone(engine, caches)


@pytest.mark.parametrize("unmask", [Fixed(), Threshold(0.4)], ids=repr)
@pytest.mark.parametrize("cache", [Widening(2), Widening(3), Widening(2, back=4)], ids=repr)
def test_law_3_eager_is_graph(cache: Widening, unmask: Fixed | Threshold) -> None:
    for model in MODELS:
        settings = replace(BASE, cache=cache, unmask=unmask)
        eager = Engine(model, settings, runner="eager").generate_batch(PROMPTS)
        graph = Engine(model, settings, runner="graph").generate_batch(PROMPTS)
        assert [one.tokens for one in graph] == [one.tokens for one in eager]


@pytest.mark.parametrize("forced", [OWN, FORCED], ids=["own", "forced"])
@pytest.mark.parametrize("cache", [Widening(3), Widening(2, back=4)], ids=repr)
def test_a_recorded_run_is_replayed_bit_for_bit(
    tmp_path: Path, cache: Widening, forced: frozenset[Choice]
) -> None:
    engine = Engine(MODELS[1], replace(BASE, cache=cache))
    for one, other, _ in replayed(engine, PROMPTS[1], forced, tmp_path / "run"):
        assert (one.rows == other.rows).all()
        assert (one.entered_age == other.entered_age).all()


# --- what is refused ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Greedy(Widening):
    """Names positions that were never computed up to there."""

    def rows(self, context: StepContext) -> Rows:
        return context.block_rows()


def test_a_position_of_which_nothing_is_kept_is_refused() -> None:
    with pytest.raises(ConfigError, match="names position 0 before layer 3, and nothing"):
        tokens(MODELS[0], Greedy())


def test_what_a_slot_held_before_is_not_taken_up() -> None:
    engine = Engine(MODELS[0], BASE, cache=Widening(), slots=1, runner="graph")
    # One after the other in the same batch, in the same cells.
    before, greedy = engine.submit(PROMPTS[0]), engine.submit(PROMPTS[0], cache=Greedy())
    with pytest.raises(ConfigError, match="names position 0 before layer 3"):
        greedy.result(60)
    assert before.result(60).tokens == tokens(MODELS[0], Widening())


@dataclass(frozen=True)
class Strange(Widening):
    """Names rows of another request."""

    def rows_before(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> Rows:
        return Rows.at({9: np.arange(1)}, rows.device, lengths=[1], bases=[0], reaches=[FULL])


def test_rows_of_others_are_refused() -> None:
    with pytest.raises(ConfigError, match="names rows of slot 9 before layer 3"):
        Engine(MODELS[0], BASE, cache=Strange()).generate_batch(PROMPTS)


@dataclass(frozen=True)
class Silent(Widening):
    """Does not say what it needs."""

    @property
    def needs(self) -> frozenset[CacheNeed]:
        return frozenset()


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (Silent(), "add 'layer_inputs'"),
        (Widening(1), "before layer 1, must be 2 to 4"),
        (Widening(5), "before layer 5, must be 2 to 4"),
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
    with pytest.raises(ConfigError, match="both say which rows go on"):
        Engine(MODELS[0], BASE, cache=Widening(), skip=CosineSkip(3))


# --- how rows attend ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watching(CachePolicy):
    """The dual cache, which looks at how rows attend."""

    seen: list[tuple[int, Rows, Tensor]]

    @property
    def needs(self) -> frozenset[CacheNeed]:
        return frozenset(("attention",))

    def start(self, geometry: Geometry) -> CacheSession:
        return WatchingSession(self.seen)


class WatchingSession(CacheSession):
    def __init__(self, seen: list[tuple[int, Rows, Tensor]]) -> None:
        self._seen = seen

    def rows(self, context: StepContext) -> Rows:
        fresh, others = context.split(lambda at: at.step == 0)
        return fresh.changed_rows().beside(others.block_rows())

    def attended(self, layer: int, weights_NK: Tensor, rows: Rows, context: StepContext) -> None:
        assert set(rows.requests) == set(context.active)
        self._seen.append((layer, rows, weights_NK.clone()))


def test_a_session_sees_how_each_row_attends_and_changes_nothing() -> None:
    watching = Watching([])
    plain = Engine(MODELS[2], BASE, cache=DualCache()).generate_batch(PROMPTS)
    seen = Engine(MODELS[2], BASE, cache=watching).generate_batch(PROMPTS)
    assert [one.tokens for one in seen] == [one.tokens for one in plain]
    assert {layer for layer, _, _ in watching.seen} == {1, 2, 3, 4}
    for _, rows, weights_NK in watching.seen:
        assert weights_NK.shape == (rows.num_rows, rows.horizon.max())
        assert torch.allclose(weights_NK.sum(1), torch.ones(rows.num_rows), atol=1e-5)
        beyond = np.arange(weights_NK.shape[1]) >= rows.horizon[:, None]
        assert not weights_NK[torch.from_numpy(beyond)].any()


class Weighing(Intervention):
    """Computes how rows attend from the keys of the layer that they are in."""

    def __init__(self) -> None:
        self.seen = list[Tensor]()

    def entering(self, layer: int, x_ND: Tensor, rows: Rows) -> Tensor:
        return x_ND

    def scoring(self, rows: Rows, logits_NV: Tensor) -> Tensor:
        return logits_NV

    def written(
        self, layer: int, rows: Rows, qkv_NHE: Tensor, q_NHE: Tensor, store: KVStore
    ) -> Tensor:
        self.seen.append(ops.attention_weights(q_NHE, store.keys[layer - 1], rows))
        return q_NHE


@torch.inference_mode()
def test_the_weights_of_each_layer_are_those_of_its_own_keys() -> None:
    watching, weighing = Watching([]), Weighing()
    run = Engine(MODELS[2], BASE, cache=watching).start([PROMPTS[2]])
    run.batch.intervene(weighing)
    run.decode()
    assert len(watching.seen) == len(weighing.seen) > 4
    for (_, _, seen_NK), own_NK in zip(watching.seen, weighing.seen, strict=True):
        assert torch.equal(seen_NK, own_NK)


def test_the_weights_are_those_of_the_attention() -> None:
    """Values that are one-hot by position, of one head: then attention gives back its weights."""
    generator = torch.Generator().manual_seed(1)
    lengths, width = [5, 9], 16
    q_NHE = torch.randn(4, 2, width, generator=generator)
    key_CUE = torch.randn(32, 1, width, generator=generator)
    value_CUE = torch.zeros(32, 1, width)
    for base, length in zip((0, 16), lengths, strict=True):
        value_CUE[base : base + length, 0, :length] = torch.eye(length)
    rows = Rows.at(
        {0: np.array([1, 4]), 2: np.array([0, 7])},
        torch.device("cpu"),
        lengths=lengths,
        reaches=[FULL] * 2,
        bases=[0, 16],
    )
    out_NHE = ops.attend(q_NHE, key_CUE, value_CUE, rows).unflatten(1, (2, width))
    weights_NK = ops.attention_weights(q_NHE, key_CUE, rows)
    assert torch.allclose(out_NHE.mean(1)[:, :9], weights_NK, atol=1e-6)


def test_graphs_that_are_not_used_are_said_with_the_reason() -> None:
    watching = Watching([])
    graph, eager = (
        Engine(MODELS[2], BASE, cache=watching, runner=runner).generate(PROMPTS[0])  # type: ignore[arg-type]
        for runner in ("graph", "eager")
    )
    assert graph.tokens == eager.tokens
    assert any("without CUDA graphs" in note for note in graph.notes)
    assert not any("without CUDA graphs" in note for note in eager.notes)
