"""Steps that are launched before earlier ones land give the tokens and the work of waiting runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from skipstone import (
    CosineSkip,
    DualCache,
    Engine,
    Fixed,
    NoCache,
    PrefixCache,
    Settings,
    Threshold,
)
from skipstone.cache import CachePolicy
from skipstone.canvas import Moment
from skipstone.engine.engine import MOST_UNPACKED
from skipstone.engine.loop import Run
from skipstone.models.load import Model
from skipstone.rows import Arriving
from skipstone.tracing import Recorder
from tests.conftest import random_model

BASE = Settings(unmask=Fixed(), gen_length=24, block_length=8, eos_stop=False)
PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7]]


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model()


@pytest.fixture
def overtaken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps were in the air when each was launched."""
    counts, launch = list[int](), Run._launch

    def counted(self: Run, moment: Moment, *, recovery: bool = False) -> object:
        counts.append(len(self._flying))
        return launch(self, moment, recovery=recovery)

    monkeypatch.setattr(Run, "_launch", counted)
    return counts


@torch.inference_mode()
def flown(
    model: Model,
    settings: Settings,
    prompts: list[list[int]],
    ahead: int,
    eos: int = -1,
    *,
    packs: bool = True,
) -> Run:
    run = Engine(model, settings).start(prompts)
    run.ahead, run.runner.packs = ahead, packs
    run.config = replace(run.config, eos_id=eos)
    run.decode()
    return run


def assert_same(run: Run, twin: Run) -> None:
    for mine, theirs in zip(run.done, twin.done, strict=True):
        assert mine.sample == theirs.sample
        assert mine.ids_G.tolist() == theirs.ids_G.tolist()
        assert mine.status_G.tolist() == theirs.status_G.tolist()
        assert mine.stats == theirs.stats


def forwards(run: Run) -> int:
    return max(len(one.stats) for one in run.done)


@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(), DualCache(), DualCache(2)], ids=repr)
@pytest.mark.parametrize("steps", [None, 9, 3])
@pytest.mark.parametrize("batch", [1, 3])
def test_flying_steps_do_what_waiting_ones_do(
    model: Model, overtaken: list[int], cache: CachePolicy, steps: int | None, batch: int
) -> None:
    settings = replace(BASE, cache=cache, steps=steps)
    waiting = flown(model, settings, PROMPTS[:batch], 0)
    assert not any(overtaken)
    for ahead in (1, 2):
        overtaken.clear()
        assert_same(flown(model, settings, PROMPTS[:batch], ahead), waiting)
        assert overtaken == [min(i, ahead) for i in range(forwards(waiting))]


@pytest.mark.parametrize("ahead", [1, 2])
def test_steps_launched_beyond_eos_are_discarded(
    model: Model, overtaken: list[int], ahead: int
) -> None:
    settings = replace(BASE, eos_stop=True)
    free = flown(model, replace(BASE, eos_stop=False), PROMPTS[:1], 0)
    # What stands at the end of the first block ends the answer there at the latest.
    eos = int(free.done[0].ids_G[BASE.block_length - 1])
    waiting = flown(model, settings, PROMPTS[:1], 0, eos)
    assert forwards(waiting) < forwards(free)
    overtaken.clear()
    assert_same(flown(model, settings, PROMPTS[:1], ahead, eos), waiting)
    assert len(overtaken) == forwards(waiting) + ahead


def test_a_threshold_is_waited_for_except_at_the_last_mask(
    model: Model, overtaken: list[int]
) -> None:
    settings = replace(BASE, unmask=Threshold(0.99))
    waiting = flown(model, settings, PROMPTS[:1], 0)
    overtaken.clear()
    assert_same(flown(model, settings, PROMPTS[:1], 2), waiting)
    left, certain = BASE.block_length, 0
    for step in waiting.done[0].stats[:-1]:
        certain += left == 1
        left = left - step.committed or BASE.block_length
    assert sum(overtaken) == certain > 0


@pytest.mark.parametrize("packs", [True, False])
def test_a_skip_that_packs_nothing_gives_the_same_and_flies_within_a_block(
    model: Model, overtaken: list[int], packs: bool
) -> None:
    settings = replace(BASE, skip=CosineSkip(skip_layer_k=3, skip_threshold=0.9), steps=12)
    waiting = flown(model, settings, PROMPTS, 0)
    skipped = [step.skipped_row_layers for one in waiting.done for step in one.stats]
    assert sum(skipped) > 0
    overtaken.clear()
    assert_same(flown(model, settings, PROMPTS, 1, packs=packs), waiting)
    assert any(overtaken)
    # The next block is not begun before it is known that the last one has no masks left.
    assert not all(overtaken[1:])


def test_who_may_fly(model: Model) -> None:
    plain, stopping = Engine(model, BASE), Engine(model, BASE, eos_stop=True)
    assert plain._may_fly(3, None)
    assert plain._may_fly(3, Recorder())
    assert stopping._may_fly(1, None)
    # An answer that may leave a batch, draws, and whoever looks at states are waited for.
    assert not stopping._may_fly(2, None)
    assert not Engine(model, BASE, temperature=0.5, seed=1)._may_fly(1, None)
    assert not plain._may_fly(1, Recorder("sketches"))
    # A CPU computes while it launches.
    assert plain.start(PROMPTS).ahead == 0


def test_few_rows_are_computed_in_vain_unless_noise_is_drawn_for_them(model: Model) -> None:
    engine = Engine(model, BASE, skip=CosineSkip(skip_layer_k=3))
    warm = Engine(model, engine.settings, temperature=0.7, seed=1)
    many = [PROMPTS[0]] * (MOST_UNPACKED // BASE.block_length + 1)
    assert not engine._packs(engine.start(PROMPTS))
    assert engine._packs(engine.start(many))
    assert warm._packs(warm.start(PROMPTS))


def test_a_step_is_launched_before_the_one_before_is_read(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, wait, launch = list[str](), Arriving.wait, Run._launch

    def waited(self: Arriving) -> np.ndarray:
        order.append("wait")
        return wait(self)

    def launched(self: Run, moment: Moment) -> object:
        order.append("launch")
        return launch(self, moment)

    monkeypatch.setattr(Arriving, "wait", waited)
    monkeypatch.setattr(Run, "_launch", launched)
    flown(model, replace(BASE, steps=3), PROMPTS[:1], 1)
    # The first wait is for the canvas that the run starts from.
    assert order == ["wait", "launch", "launch", "wait", "launch", "wait", "wait"]
