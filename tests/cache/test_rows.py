"""Which rows the vicinity and the delayed cache compute in each step, held against their rules."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from skipstone import ConfigError, Engine, Fixed, Settings, Threshold
from skipstone.cache import CachePolicy, DelayedCache, NoCache, VicinityCache
from skipstone.engine.observe import StepView
from skipstone.host_canvas import Status
from skipstone.models.load import Model
from tests.helpers.watching import BASE, LOW, Looking, places, prompt_of, uneven_model
from tests.models.test_contracts import CONFIGS, model_of

PROMPT = prompt_of(1, 7)
LENGTH = 7 + 18
ALL = set(range(LENGTH))
SHIFTED = [n for n, c in CONFIGS.items() if c.reach.score_offset and not c.reach.block_size]
CAUSAL = [name for name, config in CONFIGS.items() if config.reach.block_size]


def rows_of(cache: CachePolicy, model: Model | None = None) -> list[tuple[StepView, set[int]]]:
    """Each step, and the positions that it computed."""
    seen = list[tuple[StepView, set[int]]]()

    def look(view: StepView) -> None:
        seen.append((view, {position for _, position in places(view.rows)}))

    settings = BASE.replace(cache=cache, unmask=Fixed()).all_stated()
    Engine(model or uneven_model(1), settings).generate(PROMPT, observer=Looking(look))
    return seen


@pytest.mark.parametrize("every", [0, 4, 5])
@pytest.mark.parametrize(("before", "after", "warmup"), [(2, 3, 1), (0, 0, 0), (50, 50, 8)])
def test_the_vicinity_is_the_block_and_so_many_positions_beside_it(
    before: int, after: int, warmup: int, every: int
) -> None:
    seen = rows_of(VicinityCache(before, after, warmup, every))
    for view, rows in seen:
        at = view.context.only
        whole = at.step == 0 or at.forward <= warmup or (every and at.forward % every == 0)
        near = set(range(max(0, at.start - before), min(LENGTH, at.stop + after)))
        assert rows == (ALL if whole else near)
        assert view.rows.refresh == bool(whole)
    assert len(seen) == 18


@pytest.mark.parametrize("every", [0, 2, 3])
def test_a_token_is_computed_once_more_in_the_step_after_its_commit(every: int) -> None:
    masked = set[int]()
    for view, rows in rows_of(DelayedCache(every)):
        at = view.context.only
        whole = at.step < 2 or (every and at.step % every == 0)
        assert rows == (ALL if whole else masked)
        assert view.rows.refresh == bool(whole)
        masked = set((7 + np.flatnonzero(view.before.status_BG[0] == Status.MASK)).tolist())


@pytest.mark.parametrize("name", SHIFTED)
@pytest.mark.parametrize("cache", [VicinityCache(0, 0, 0), DelayedCache(0)], ids=repr)
def test_the_row_that_scores_a_mask_is_computed_with_it(name: str, cache: CachePolicy) -> None:
    for view, rows in rows_of(cache, model_of(name)):
        at = view.context.only
        masks = 7 + np.flatnonzero(view.before.status_BG[0] == Status.MASK)
        own = masks[(masks >= at.start) & (masks < at.stop)]
        assert set((own - 1).tolist()) <= rows


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("cache", [VicinityCache(30, 30, 0), DelayedCache(0)], ids=repr)
def test_nothing_behind_what_a_block_sees_is_computed(name: str, cache: CachePolicy) -> None:
    model = model_of(name)
    settings = Settings(gen_length=18, eos_stop=False, unmask=Fixed(), cache=cache)

    def look(view: StepView) -> None:
        at = view.context.only
        assert max(position for _, position in places(view.rows)) < at.reach.end(at.stop - 1, 99)
        assert {p for _, p in places(view.rows)} >= {7 + int(o) for o in _masks(view)}

    def _masks(view: StepView) -> np.ndarray:
        at, status = view.context.only, view.before.status_BG[0]
        return at.block.start + np.flatnonzero(
            status[at.block.start : at.block.stop] == Status.MASK
        )

    engine = Engine(model, settings)
    engine.generate(PROMPT, observer=Looking(look))
    # What is left of the block is final there: a refresh has nothing else to renew.
    narrow = Engine(model, settings, cache=VicinityCache(0, 0, 0)).generate(PROMPT)
    wide = Engine(model, settings, cache=VicinityCache(30, 30, 0)).generate(PROMPT)
    assert narrow.tokens == wide.tokens


@pytest.mark.parametrize("skip", ["none", LOW])
@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_each_gives_alone_what_it_gives_beside_others(
    skip: str, runner: Literal["eager", "graph"]
) -> None:
    model = uneven_model(1)
    given = Settings(
        gen_length=18, block_length=6, eos_stop=False, skip=skip, unmask=Threshold(0.4)
    )
    caches = [
        VicinityCache(2, 3, 1),
        DelayedCache(3),
        VicinityCache(1, 1, 2, refresh_every=3, published=True),
        DelayedCache(0),
        NoCache(),
    ] * 2
    prompts = [prompt_of(n, 3 + 2 * n) for n in range(len(caches))]
    alone = [
        Engine(model, given, cache=cache).generate(prompt)
        for cache, prompt in zip(caches, prompts, strict=True)
    ]
    engine = Engine(model, given, runner=runner, slots=3)
    handles = [
        engine.submit(prompt, cache=cache) for cache, prompt in zip(caches, prompts, strict=True)
    ]
    assert [h.result().tokens for h in handles] == [one.tokens for one in alone]


def test_a_wide_vicinity_without_end_is_the_exact_run() -> None:
    exact = Engine(uneven_model(1), BASE, cache=NoCache()).generate(PROMPT).tokens
    for cache in (VicinityCache(50, 50, 0), VicinityCache(0, 0, 99), VicinityCache(0, 0, 0, 1)):
        assert Engine(uneven_model(1), BASE, cache=cache).generate(PROMPT).tokens == exact
    narrow = Engine(uneven_model(1), BASE, cache=VicinityCache(0, 0, 0)).generate(PROMPT)
    assert narrow.tokens != exact


def test_what_had_no_effect_is_said() -> None:
    def notes(cache: CachePolicy) -> str:
        settings = BASE.replace(cache=cache, unmask=Fixed())
        return " ".join(Engine(uneven_model(1), settings).generate(PROMPT).notes)

    assert "cache=vicinity kept nothing: with warmup=50" in notes(VicinityCache(warmup=50))
    assert "refresh_every=99 never came due" in notes(VicinityCache(refresh_every=99))
    assert "refresh_every=40 never came due" in notes(DelayedCache(40))
    short = BASE.replace(block_length=2, cache=DelayedCache())
    assert "cache=dkv kept nothing" in " ".join(
        Engine(uneven_model(1), short).generate(PROMPT).notes
    )
    for quiet in (VicinityCache(warmup=1), VicinityCache(refresh_every=5), DelayedCache(4)):
        assert "due" not in notes(quiet)
        assert "kept nothing" not in notes(quiet)


def test_a_fresher_cache_refreshes_more_often() -> None:
    assert VicinityCache().fresher() == VicinityCache(refresh_every=4)
    assert VicinityCache(refresh_every=8, published=True).fresher() == VicinityCache(
        refresh_every=4
    )
    assert VicinityCache(refresh_every=1).fresher() is None
    assert DelayedCache().fresher() == DelayedCache(4)
    assert DelayedCache(0).fresher() == DelayedCache(8)
    assert DelayedCache(3).fresher() is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("vicinity:before=-1", "vicinity before is -1"),
        ("vicinity:after=-1", "vicinity after is -1"),
        ("vicinity:warmup=-2", "vicinity warmup is -2"),
        ("vicinity:refresh_every=-2", "vicinity refresh_every is -2"),
        ("dkv:-1", "dkv refresh_every is -1"),
        ("dkv:1", "cache=none computes all rows in every step"),
    ],
)
def test_values_out_of_their_range_are_refused(wrong: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings(cache=wrong)
