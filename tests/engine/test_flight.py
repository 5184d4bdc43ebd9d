"""Steps that are launched before earlier ones are completed give what waiting runs give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
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
    PrefixCache,
    Settings,
    Threshold,
)
from skipstone.cache import CachePolicy, VicinityCache
from skipstone.canvas import HostCanvas, Status, StepContext
from skipstone.engine.loop import Loop
from skipstone.engine.progress import RequestState
from skipstone.engine.request import Done, Request
from skipstone.engine.step import Stepper
from skipstone.models.load import Model
from skipstone.rows import HostCopy, Rows
from skipstone.testing.tiny import MASK, tiny_model
from skipstone.unmask import Scores, UnmaskPolicy

BASE = Settings(unmask=Fixed(), gen_length=24, block_length=8, eos_stop=False)
PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7]]
CACHES: list[CachePolicy] = [
    NoCache(),
    PrefixCache(),
    DualCache(),
    DualCache(2),
    VicinityCache(2, 3, 1),
]


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.fixture
def overtaken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps were in flight when each was launched."""
    counts, launch = list[int](), Loop._launch

    def counted(self: Loop) -> bool:
        flying, launched = len(self._flying), launch(self)
        if launched:
            counts.append(flying)
        return launched

    monkeypatch.setattr(Loop, "_launch", counted)
    return counts


@pytest.fixture
def rash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is believed to leave masks, also the last of a block."""

    def believed(self: RequestState, host: HostCanvas, in_flight: int) -> bool:
        blocks = self.request.blocks
        return self.block >= len(blocks) or host.masks(self.slot, blocks[self.block]) > 0

    monkeypatch.setattr(RequestState, "surely_goes_on", believed)


@torch.inference_mode()
def flown(
    model: Model,
    settings: Settings,
    prompts: list[list[int]],
    ahead: int,
    eos: int = -1,
    *,
    packs: bool = True,
) -> list[Done]:
    run = Engine(model, settings).start(prompts)
    run.ahead, run.batch.runner.packs = ahead, packs
    run.stepper.overlaps = ahead > 0
    run.batch.config = replace(run.batch.config, eos_id=eos)
    run.batch.canvas.stop_BK[:, 0] = eos
    return run.decode()


def assert_same(done: list[Done], others: list[Done]) -> None:
    for mine, theirs in zip(done, others, strict=True):
        assert mine.sample == theirs.sample
        assert mine.ids_G.tolist() == theirs.ids_G.tolist()
        assert mine.status_G.tolist() == theirs.status_G.tolist()
        assert mine.stats == theirs.stats


def forwards(done: list[Done]) -> int:
    return max(len(one.stats) for one in done)


@pytest.mark.parametrize("cache", CACHES, ids=repr)
@pytest.mark.parametrize("steps", [None, 9, 3])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_schedule_is_never_waited_for(
    model: Model, overtaken: list[int], cache: CachePolicy, steps: int | None, batch: int
) -> None:
    settings = replace(BASE, cache=cache, steps=steps)
    waiting = flown(model, settings, PROMPTS[:batch], 0)
    assert not any(overtaken)
    overtaken.clear()
    assert_same(flown(model, settings, PROMPTS[:batch], 1), waiting)
    assert len(overtaken) == forwards(waiting)
    # Only the first step finds none in flight.
    assert overtaken == [0] + [1] * (forwards(waiting) - 1)


def test_where_a_stop_id_stands_the_next_block_is_waited_for() -> None:
    request = Request((1, 2), (MASK,) * 24, MASK, replace(BASE, eos_stop=True), stop_ids=(9,))
    state = RequestState(request, slot=0, base=0, block=1, step=0)
    ids_BG = np.full((1, 24), MASK)
    host = HostCanvas(ids_BG, np.full((1, 24), int(Status.MASK)))
    ids_BG[0, :6] = 5
    assert state.surely_goes_on(host, 1)
    ids_BG[0, 5] = 9
    assert not state.surely_goes_on(host, 1)
    # Within the block, the step is the next one in any case.
    state.step = 1
    assert state.surely_goes_on(host, 1)


def test_a_block_that_a_schedule_leaves_undone_is_finished(model: Model) -> None:
    class Lazy(Fixed):
        def select(self, scores: Scores, context: StepContext) -> Tensor:
            best_B1 = scores.confidence_BG.argmax(1, keepdim=True)
            return super().select(scores, context) & (offset_G == best_B1)

    offset_G = torch.arange(BASE.gen_length)
    settings = replace(BASE, unmask=Lazy(), steps=3)
    for ahead in (0, 1):
        (done,) = flown(model, settings, PROMPTS[:1], ahead)
        assert MASK not in done.ids_G


@pytest.mark.parametrize(
    ("unmask", "batch"), [(Threshold(0.9), 1), (Threshold(0.9), 3), (Factor(1.0), 1)], ids=repr
)
def test_steps_by_confidence_fly_too(
    model: Model, overtaken: list[int], unmask: UnmaskPolicy, batch: int
) -> None:
    settings = replace(BASE, unmask=unmask)
    waiting = flown(model, settings, PROMPTS[:batch], 0)
    overtaken.clear()
    assert_same(flown(model, settings, PROMPTS[:batch], 1), waiting)
    assert any(overtaken)


@pytest.mark.parametrize("cache", CACHES, ids=repr)
@pytest.mark.parametrize("ahead", [1, 2])
@pytest.mark.parametrize("skip", [False, True])
def test_a_step_beyond_the_end_of_a_block_changes_nothing(
    model: Model, overtaken: list[int], rash: None, cache: CachePolicy, ahead: int, skip: bool
) -> None:
    settings = replace(BASE, unmask=Threshold(0.06), cache=cache)
    if skip:
        settings = settings.replace(skip=CosineSkip(skip_layer_k=3, skip_threshold=0.9))
    waiting = flown(model, settings, PROMPTS, 0)
    for packs in (True, False):
        overtaken.clear()
        assert_same(flown(model, settings, PROMPTS, ahead, packs=packs), waiting)
        # At the end of each block of a request, steps were taken in vain.
        assert len(overtaken) > forwards(waiting)


@pytest.mark.parametrize("ahead", [1, 2])
def test_steps_launched_beyond_eos_are_discarded(
    model: Model, overtaken: list[int], ahead: int
) -> None:
    settings = replace(BASE, eos_stop=True)
    free = flown(model, replace(BASE, eos_stop=False), PROMPTS[:1], 0)
    # What stands at the end of the first block ends the answer there at the latest.
    eos = int(free[0].ids_G[BASE.whole_block - 1])
    waiting = flown(model, settings, PROMPTS[:1], 0, eos)
    assert forwards(waiting) < forwards(free)
    overtaken.clear()
    assert_same(flown(model, settings, PROMPTS[:1], ahead, eos), waiting)
    assert any(overtaken)


def test_what_draws_or_may_leave_masks_or_remembers_is_waited_for(
    model: Model, overtaken: list[int]
) -> None:
    class Unsaid(Threshold):
        pure = False

    for settings in (
        replace(BASE, temperature=0.5, seed=1),
        replace(BASE, unmask=Fixed("random"), seed=1),
        replace(BASE, budget="stop"),
        replace(BASE, unmask=Unsaid(0.06)),
    ):
        assert not settings.may_overlap
        flown(model, settings, PROMPTS[:2], 1)
        assert not any(overtaken)
    assert BASE.may_overlap
    # A CPU computes while it launches.
    assert Engine(model, BASE).start(PROMPTS).ahead == 0


def test_a_step_is_launched_before_the_one_before_is_read(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, wait, launch = list[str](), HostCopy.wait, Stepper.launch

    def waited(self: HostCopy) -> np.ndarray:
        order.append("wait")
        return wait(self)

    def launched(self: Stepper, context: StepContext, rows: Rows) -> object:
        order.append("launch")
        return launch(self, context, rows)

    monkeypatch.setattr(HostCopy, "wait", waited)
    monkeypatch.setattr(Stepper, "launch", launched)
    flown(model, replace(BASE, gen_length=8, steps=4), PROMPTS[:1], 1)
    assert order == ["launch", "launch", "wait", "launch", "wait", "launch", "wait", "wait"]
