"""The laws on observers, skipped rows, idle features and memory; the other laws are next door."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone import (
    ConfigError,
    CosineSkip,
    DualCache,
    Engine,
    Fixed,
    NotFiniteError,
    PrefixCache,
    Threshold,
)
from skipstone.cache import CachePolicy
from skipstone.canvas import StepContext
from skipstone.engine import Settings
from skipstone.engine.observe import Observers, StepView, Taps
from skipstone.memory.store import KVStore
from skipstone.policies import CACHE
from skipstone.rows import Rows
from skipstone.unmask import Factor, UnmaskPolicy
from tests.helpers.watching import (
    BASE,
    CACHES,
    LOW,
    Looking,
    places,
    prompt_of,
    uneven_model,
    watch,
)

ALL_TAPS = Taps(states=(1, 2, 3, 4), logits=True)
each_cache = pytest.mark.parametrize("cache", CACHES, ids=CACHE.spell)


def ignore(view: StepView) -> None:
    pass


# Law 8: watching changes nothing, and an observer that fails ends the run.


@each_cache
@pytest.mark.parametrize("unmask", [Fixed(), Threshold(0.5), Factor(1.0)], ids=repr)
def test_law_8_tokens_and_work_are_the_same_with_and_without_an_observer(
    cache: CachePolicy, unmask: UnmaskPolicy
) -> None:
    engine = Engine(
        uneven_model(1), BASE, cache=cache, unmask=unmask, skip=LOW, temperature=0.5, seed=2
    )
    prompts = [prompt_of(1, 7), prompt_of(2, 3)]
    alone = engine.generate_batch(prompts)
    for observer in (Looking(ignore), Looking(ignore, ALL_TAPS), Observers((Looking(ignore),))):
        watched = engine.generate_batch(prompts, observer=observer)
        for one, other in zip(alone, watched, strict=True):
            assert one.tokens == other.tokens
            assert one.stats.steps == other.stats.steps
            assert one.notes == other.notes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_law_8_tapped_logits_are_those_of_the_model(dtype: torch.dtype) -> None:
    model = uneven_model(1)
    model = replace(model, network=model.network.copy(dtype))

    def look(view: StepView) -> None:
        assert view.logits_NV is not None
        assert view.scored is not None
        last = view.states[4]
        where = [last.rows.position.tolist().index(p) for p in view.scored.position.tolist()]
        expected = model.network.head(model.network.final_norm(last.x_ND[where]))
        assert torch.allclose(view.logits_NV, expected, rtol=1e-4, atol=1e-4)

    Engine(model, BASE).generate(prompt_of(1, 7), observer=Looking(look, ALL_TAPS))


def test_law_8_an_observer_error_stops_the_run() -> None:
    seen = list[int]()

    def look(view: StepView) -> None:
        seen.append(view.context.only.forward)
        if len(seen) == 3:
            raise ZeroDivisionError("on purpose")

    observer = Looking(look)
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        Engine(uneven_model(1), BASE).generate(prompt_of(1, 7), observer=observer)
    assert seen == [0, 1, 2]
    assert not observer.ended


# Law 9: what a skipped row has, and who may not skip.


def freely() -> CosineSkip:
    return CosineSkip(3, 0.3, -1.0, keep_committed=False, keep_neighbours=False)


@each_cache
def test_law_9_a_block_begins_with_all_rows_in_all_layers(cache: CachePolicy) -> None:
    def look(view: StepView) -> None:
        if view.context.only.step == 0:
            assert view.skip is None
            assert places(view.finished) == places(view.rows)
            assert len(places(view.rows)) == 7 + 18

    engine = Engine(uneven_model(1), BASE, cache=cache, skip=freely())
    assert engine.generate(prompt_of(1, 7), observer=Looking(look)).stats.skip_share > 0.3


@each_cache
def test_law_9_ages_count_the_forwards_since_a_row_last_went_all_the_way(
    cache: CachePolicy,
) -> None:
    lengths = (7, 3)
    entered = {(b, p): -1 for b, n in enumerate(lengths) for p in range(n + 18)}
    finished = dict(entered)
    ages = set[int]()

    def look(view: StepView) -> None:
        now = {at.slot: at.forward for at in view.context.requests}
        for place in places(view.rows):
            entered[place] = now[place[0]]
        for place in places(view.finished):
            finished[place] = now[place[0]]
        assert {p: int(view.entered_at_BL[p]) for p in entered} == entered
        assert {p: int(view.finished_at_BL[p]) for p in finished} == finished
        ages.update(now[p[0]] - finished[p] for p in places(view.rows))

    engine = Engine(uneven_model(1), BASE, cache=cache, skip=freely())
    engine.generate_batch([prompt_of(i, n) for i, n in enumerate(lengths)], observer=Looking(look))
    assert {0, 1, 2} < ages


@each_cache
def test_law_9_a_skipped_row_keeps_its_deep_keys_values_and_logits(
    cache: CachePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = list[tuple[int, frozenset[tuple[int, int]]]]()
    write = KVStore.write

    def noting(store: KVStore, layer: int, rows: Rows, *heads: Any) -> Tensor:
        written.append((layer + 1, places(rows)))
        return write(store, layer, rows, *heads)

    monkeypatch.setattr(KVStore, "write", noting)
    before: dict[int, tuple[int, float]] = {}
    kept = list[int]()

    def look(view: StepView) -> None:
        entered, finished = places(view.rows), places(view.finished)
        for layer, rows in written:
            assert rows == (entered if layer < LOW.skip_layer_k or not view.skip else finished)
        written.clear()
        board = view.board
        guesses = {
            offset: (int(board.token_BG[0, offset]), float(board.confidence_BG[0, offset]))
            for offset in range(18)
        }
        for _, position in entered - finished:
            offset = position - 7
            if 0 <= offset < view.context.only.block.stop:
                assert guesses[offset] == before[offset]
                assert int(board.scored_at_BG[0, offset]) < view.context.only.forward
                kept.append(offset)
        before.update(guesses)

    engine = Engine(uneven_model(1), BASE, cache=cache, skip=LOW)
    engine.generate(prompt_of(1, 7), observer=Looking(look))
    assert len(kept) > 10


@pytest.mark.parametrize(
    ("keep_committed", "keep_neighbours"),
    [(True, True), (True, False), (False, True), (False, False)],
)
def test_law_9_rows_just_committed_and_their_neighbours_may_not_skip(
    keep_committed: bool, keep_neighbours: bool
) -> None:
    skip = CosineSkip(2, 0.2, -1.0, keep_committed=keep_committed, keep_neighbours=keep_neighbours)
    committed_skips = neighbour_skips = 0
    for seed in range(4):
        _, watcher = watch(Engine(uneven_model(seed), BASE, skip=skip), prompt_of(seed, 7))
        for before, after in pairwise(watcher.steps):
            new = set(before.committed)
            near = {(b, p + d) for b, p in new for d in (-1, 1)} - new
            committed_skips += len(after.skipped & new)
            neighbour_skips += len(after.skipped & near)
    assert (committed_skips == 0) == keep_committed
    assert (neighbour_skips == 0) == keep_neighbours


@each_cache
@pytest.mark.parametrize("unmask", [Threshold(0.9), Threshold(0.5), Factor(1.0)], ids=repr)
def test_law_9_old_logits_are_committed_only_when_they_are_the_best_of_all(
    cache: CachePolicy, unmask: UnmaskPolicy
) -> None:
    old_commits = passed_over = 0

    def look(view: StepView) -> None:
        nonlocal old_commits, passed_over
        start, stop = 7, 7 + view.context.only.block.stop
        masked = [p for p in range(start, stop) if view.before.status_BG[0, p - start] == 2]
        entered = {p for _, p in places(view.rows)}
        fresh = {p for _, p in places(view.finished)}
        sure = {p: float(view.board.confidence_BG[0, p - start]) for p in masked if p in entered}
        best = min(sure, key=lambda p: (-sure[p], p))
        for position in sure.keys() - fresh:
            committed = bool(view.commit_BG[0, position - start])
            assert committed == (position == best)
            assert bool(view.allowed_BG[0, position - start].isfinite()) == committed
            old_commits += committed
            passed_over += not committed

    for seed in range(3):
        engine = Engine(uneven_model(seed), BASE, cache=cache, unmask=unmask, skip=LOW)
        engine.generate(prompt_of(seed, 7), observer=Looking(look))
    assert old_commits > 0
    assert passed_over > 0


# Law 10: what is on and did nothing says so, and so does what has no effect.


def notes(settings: Settings) -> str:
    return " | ".join(Engine(uneven_model(1), settings).generate(prompt_of(1, 7)).notes)


def test_law_10_a_skip_that_skipped_nothing_says_so() -> None:
    assert "skipped nothing" in notes(BASE.replace(skip=CosineSkip(3, 1.0)))
    assert notes(BASE.replace(skip=LOW)) == ""
    assert notes(BASE) == ""


@pytest.mark.parametrize("kind", [PrefixCache, DualCache])
def test_law_10_a_cache_that_saved_nothing_says_so(
    kind: type[PrefixCache] | type[DualCache],
) -> None:
    assert "saved nothing" in notes(BASE.replace(cache=kind(refresh_every=1)))
    assert notes(BASE.replace(cache=kind(refresh_every=3))) == ""


def test_law_10_an_interval_that_never_refreshed_says_so() -> None:
    assert "refresh" in notes(BASE.replace(cache=DualCache(refresh_every=50)))


IDLE: dict[str, tuple[Settings, str]] = {
    "steps": (BASE.replace(unmask=Threshold(), steps=8), "steps=8 has no effect"),
    "steps of a factor": (BASE.replace(unmask=Factor(), steps=8), "steps=8 has no effect"),
    "seed": (BASE.replace(seed=1), "seed=1 has no effect"),
    "seed of a fixed order": (BASE.replace(unmask=Fixed(), seed=1), "seed=1 has no effect"),
}


@pytest.mark.parametrize("name", list(IDLE))
def test_law_10_a_setting_without_effect_is_said_and_does_not_stop_the_run(name: str) -> None:
    settings, message = IDLE[name]
    assert message in notes(settings)
    without = settings.replace(steps=None, seed=None)
    assert "no effect" not in notes(without)
    model, prompt = uneven_model(1), prompt_of(1, 7)
    said, unsaid = (Engine(model, s).generate(prompt).tokens for s in (settings, without))
    assert said == unsaid


def test_law_10_a_setting_without_effect_must_still_be_in_its_range() -> None:
    # Without a policy, how many steps there may be is known with the model alone.
    many = {"steps": 129, "unmask": "threshold"}
    for wrong in (many, {"steps": 0}, {"seed": -1}, {"seed": 2**63}):
        changes: dict[str, Any] = wrong
        with pytest.raises(ConfigError, match="must be between"):
            Settings(**changes)


def test_law_10_the_same_settings_are_not_said_where_they_have_an_effect() -> None:
    assert not Settings(unmask=Threshold(), steps=128, budget="stop").idle()
    assert not Settings(unmask=Fixed(), steps=128).idle()
    assert not Settings(temperature=0.5, seed=1).idle()
    assert not Settings(unmask=Fixed("random"), seed=1).idle()


# Law 11: nothing reads memory that was never written.


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what torch.empty and a fresh K/V store give with NaN."""
    empty, start = torch.empty, KVStore.__init__

    def poisoned(*args: object, **kwargs: object) -> Tensor:
        made = empty(*args, **kwargs)  # pyrefly: ignore
        return made.fill_(torch.nan if made.is_floating_point() else -(1 << 40))

    def poisoned_store(store: KVStore, *args: object, **options: object) -> None:
        start(store, *args, **options)  # pyrefly: ignore
        store.keys.fill_(torch.nan)
        store.values.fill_(torch.nan)

    monkeypatch.setattr(torch, "empty", poisoned)
    monkeypatch.setattr(KVStore, "__init__", poisoned_store)


@dataclass(frozen=True)
class Forgetful(CachePolicy):
    """A wrong cache: the first step of all computes the prompt and the first block, no more."""

    def rows(self, context: StepContext) -> Rows:
        if context.only.forward == 0:
            everything = context.all_rows(refresh=True)
            return everything.take(np.arange(7 + context.only.block.stop))
        return context.block_rows()


@each_cache
@pytest.mark.parametrize("reference", ["last_computed", "previous_step"])
def test_law_11_tokens_do_not_depend_on_uninitialised_memory(
    cache: CachePolicy, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip = CosineSkip(3, 0.7, 0.0, reference="previous_step")
    if reference == "last_computed":
        skip = LOW
    engine = Engine(uneven_model(1), BASE, cache=cache, skip=skip)
    prompt = prompt_of(1, 7)
    clean = engine.generate(prompt)
    poison(monkeypatch)
    poisoned = engine.generate(prompt)
    assert poisoned.tokens == clean.tokens
    assert poisoned.stats.steps == clean.stats.steps
    assert clean.stats.skip_share > 0


def test_law_11_reading_before_writing_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(uneven_model(1), BASE, cache=Forgetful())
    assert engine.generate(prompt_of(1, 7)).masks_left == 0
    poison(monkeypatch)
    with pytest.raises(NotFiniteError, match="block 0, step 0"):
        engine.generate(prompt_of(1, 7))
