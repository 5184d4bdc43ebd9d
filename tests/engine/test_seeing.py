"""Cache policies that say which keys rows see: that they see these, and no others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from skipstone import DualCache, Engine, Fixed, Settings, Threshold
from skipstone.cache import CacheNeed, CachePolicy, DllmCache, SparseCache
from skipstone.canvas import RequestStep, StepContext
from skipstone.diagnosis.experiment import Choice
from skipstone.engine.observe import StepView
from skipstone.errors import ConfigError, PolicyError
from skipstone.memory.store import KVStore
from skipstone.rows import Rows
from tests.helpers.recorded import replayed
from tests.helpers.watching import Looking, check_each_is_alone, prompt_of, uneven_model

BASE = Settings(gen_length=12, block_length=6, eos_stop=False, unmask=Fixed(), steps=8)
MODELS = [uneven_model(seed) for seed in range(3)]
PROMPTS = [prompt_of(seed, 4 + 3 * seed) for seed in range(3)]
OWN, FORCED = frozenset[Choice](), frozenset[Choice](("rows", "skip"))
Runner = Literal["eager", "graph"]


@dataclass(frozen=True)
class Striped(CachePolicy):
    """Hides one key of three outside the block, others in each layer, whatever they are."""

    @property
    def pure(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[CacheNeed]:
        return frozenset(("keys",))

    def rows(self, context: StepContext) -> Rows:
        whole, cached = context.split(lambda at: at.step == 0)
        return whole.changed_rows().beside(cached.block_rows())

    def visible(self, context: StepContext) -> Tensor:
        shape = (4, *context.canvas.ids_BL.shape)
        layer, position = torch.arange(4)[:, None], torch.arange(shape[-1])
        visible_YBL = ((layer + position) % 3 > 0)[:, None].repeat(1, shape[1], 1)
        for at in context.requests:
            visible_YBL[:, at.slot, at.start : at.stop] = True
        return visible_YBL


CACHES: list[CachePolicy] = [Striped(), SparseCache(), SparseCache(0.2, 1), SparseCache(0.0)]
each_cache = pytest.mark.parametrize("cache", CACHES, ids=repr)


def tokens(seed: int, cache: CachePolicy) -> tuple[int, ...]:
    return Engine(MODELS[seed], replace(BASE, cache=cache)).generate(PROMPTS[seed]).tokens


@pytest.mark.parametrize("shown", [False, True], ids=["hidden", "control: visible"])
@each_cache
def test_what_is_hidden_changes_nothing_and_what_is_visible_does(
    monkeypatch: pytest.MonkeyPatch, cache: CachePolicy, shown: bool
) -> None:
    right, attend = [tokens(seed, cache) for seed in range(3)], KVStore.attend

    def spoiling(self: KVStore, layer: int, q_NHE: Tensor, rows: Rows) -> Tensor:
        if self.visible_YBL is not None:
            cells_K = self.visible_YBL[layer, 0, : rows.horizon.max()] == shown
            # Keys and values of the block are fresh in each step.
            cells_K[rows.position] = False
            for cells in (self.keys, self.values):
                there = cells[layer, int(rows.base[0]) :][: len(cells_K)]
                there[cells_K] = torch.randn_like(there[cells_K]) * 5
        return attend(self, layer, q_NHE, rows)

    monkeypatch.setattr(KVStore, "attend", spoiling)
    spoiled = [tokens(seed, cache) for seed in range(3)]
    nothing_shown = shown and cache == SparseCache(0.0)
    assert (spoiled == right) == (not shown or nothing_shown)


@each_cache
@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_law_7_each_is_alone_beside_other_caches(cache: CachePolicy, runner: Runner) -> None:
    caches = [cache, DualCache(), SparseCache(0.3), cache, DllmCache(3, 2), cache, DualCache(2)]
    check_each_is_alone(Engine(MODELS[1], BASE, runner=runner, slots=3), caches)


@each_cache
@pytest.mark.parametrize("unmask", [Fixed(), Threshold(0.4)], ids=repr)
def test_law_3_eager_is_graph(cache: CachePolicy, unmask: Fixed | Threshold) -> None:
    for model in MODELS:
        settings = replace(BASE, cache=cache, unmask=unmask)
        eager = Engine(model, settings, runner="eager").generate_batch(PROMPTS)
        graph = Engine(model, settings, runner="graph").generate_batch(PROMPTS)
        assert [one.tokens for one in graph] == [one.tokens for one in eager]


def test_a_refresh_sees_everything_and_so_does_who_has_another_cache() -> None:
    def look(view: StepView) -> None:
        visible_YBL, (sparse, dual) = view.store.visible_YBL, view.context.requests
        if sparse.step < 2:
            assert visible_YBL is None
        else:
            assert visible_YBL is not None
            assert not visible_YBL[:, sparse.slot].all()
            assert visible_YBL[:, dual.slot].all()

    engine = Engine(MODELS[0], BASE)
    both = [BASE.replace(cache=SparseCache()), BASE.replace(cache=DualCache())]
    engine.generate_batch(PROMPTS[:2], settings=both, observer=Looking(look))


@pytest.mark.parametrize("forced", [OWN, FORCED], ids=["own", "forced"])
@each_cache
def test_a_recorded_run_is_replayed_bit_for_bit(
    tmp_path: Path, cache: CachePolicy, forced: frozenset[Choice]
) -> None:
    engine = Engine(MODELS[1], replace(BASE, cache=cache))
    for one, other, _ in replayed(engine, PROMPTS[1], forced, tmp_path / "run"):
        assert (one.finished == other.finished).all()


# --- what is refused ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flat(Striped):
    """Says the same for all layers, which is no table of each."""

    def visible(self, context: StepContext) -> Tensor:
        return super().visible(context)[0]


@dataclass(frozen=True)
class Vague(Striped):
    """Says something else than a table."""

    def visible(self, context: StepContext) -> Tensor:
        return [True]  # type: ignore[return-value]


@dataclass(frozen=True)
class Failing(Striped):
    """Cannot look."""

    def looks_at(self, at: RequestStep) -> bool:
        return at.step == 1

    def met(
        self, layer: int, q_RHE: Tensor, key_KUE: Tensor, rows: Rows, context: StepContext
    ) -> None:
        raise RuntimeError("no sight")


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (
            Flat(),
            r"lets rows see bool \[3, \d+\] on cpu, must be bool \[4, 3, \d+\]: layers, requests",
        ),
        (Vague(), "lets rows see list, must be bool"),
        (Failing(), "raised RuntimeError: no sight"),
    ],
    ids=repr,
)
def test_what_is_no_table_ends_the_requests_that_share_the_policy_and_no_others(
    cache: CachePolicy, message: str
) -> None:
    engine = Engine(MODELS[0], BASE, slots=3)
    handles = [
        engine.submit(prompt, cache=own)
        for prompt, own in zip(PROMPTS, (SparseCache(), cache, Striped()), strict=True)
    ]
    with pytest.raises(PolicyError, match=message):
        handles[1].result(60)
    for handle, own, prompt in ((handles[0], SparseCache(), 0), (handles[2], Striped(), 2)):
        alone = Engine(MODELS[0], BASE, cache=own).generate(PROMPTS[prompt])
        assert handle.result(60).tokens == alone.tokens


@dataclass(frozen=True)
class Silent(Striped):
    """Does not say what it needs."""

    @property
    def needs(self) -> frozenset[CacheNeed]:
        return frozenset()


def test_who_hides_keys_must_say_so() -> None:
    with pytest.raises(ConfigError, match=r"which keys are visible.*add 'keys' to them"):
        Engine(MODELS[0], BASE, cache=Silent())
