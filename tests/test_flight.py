"""Steps that are launched before earlier ones land give the tokens and the work of waiting runs."""

from __future__ import annotations

from dataclasses import replace

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
from skipstone.canvas import HostCanvas, Moment, Readback
from skipstone.engine.loop import Run
from skipstone.engine.scoring import Scorer
from skipstone.models.load import Model
from skipstone.tracing import Recorder
from tests.conftest import random_model

BASE = Settings(unmask=Fixed(), gen_length=24, block_length=8, eos_stop=False)
PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7]]


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model()


@pytest.fixture
def foreseen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each step scored without knowing which."""
    counts, score = list[int](), Scorer.score_foreseen

    def counted(self: Scorer, done: object, moment: object, count: int) -> object:
        counts.append(count)
        return score(self, done, moment, count)  # type: ignore[arg-type]

    monkeypatch.setattr(Scorer, "score_foreseen", counted)
    return counts


@torch.inference_mode()
def flown(
    model: Model, settings: Settings, prompts: list[list[int]], ahead: int, eos: int = -1
) -> Run:
    run = Engine(model, settings).start(prompts)
    run.ahead = ahead
    run.config = replace(run.config, eos_id=eos)
    run.decode()
    return run


def assert_same(run: Run, twin: Run) -> None:
    assert (run.host.ids_BG == twin.host.ids_BG).all()
    assert (run.host.status_BG == twin.host.status_BG).all()
    assert run.stats == twin.stats
    assert run.forwards == twin.forwards


@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(), DualCache(), DualCache(2)], ids=repr)
@pytest.mark.parametrize("steps", [None, 9, 3])
@pytest.mark.parametrize("batch", [1, 3])
def test_flying_steps_do_what_waiting_ones_do(
    model: Model, foreseen: list[int], cache: CachePolicy, steps: int | None, batch: int
) -> None:
    settings = replace(BASE, cache=cache, steps=steps)
    waiting = flown(model, settings, PROMPTS[:batch], 0)
    assert not foreseen
    for ahead in (1, 2):
        assert_same(flown(model, settings, PROMPTS[:batch], ahead), waiting)
    assert len(foreseen) == 2 * (waiting.forwards - 1)


@pytest.mark.parametrize("ahead", [1, 2])
def test_steps_launched_beyond_eos_are_discarded(
    model: Model, foreseen: list[int], ahead: int
) -> None:
    settings = replace(BASE, eos_stop=True)
    free = flown(model, replace(BASE, eos_stop=False), PROMPTS[:1], 0)
    # What stands at the end of the first block ends the answer there at the latest.
    eos = int(free.host.ids_BG[0, BASE.block_length - 1])
    waiting = flown(model, settings, PROMPTS[:1], 0, eos)
    assert waiting.forwards < free.forwards
    assert_same(flown(model, settings, PROMPTS[:1], ahead, eos), waiting)
    assert len(foreseen) == waiting.forwards - 1 + ahead


@pytest.mark.parametrize(
    "settings",
    [
        replace(BASE, unmask=Threshold(0.3)),
        replace(BASE, skip=CosineSkip(skip_layer_k=3, skip_threshold=0.9)),
        replace(BASE, temperature=0.5, seed=1),
        replace(BASE, eos_stop=True),
    ],
    ids=["threshold", "skip", "temperature", "eos in a batch"],
)
def test_what_nobody_can_foresee_is_waited_for(
    model: Model, foreseen: list[int], settings: Settings
) -> None:
    assert_same(flown(model, settings, PROMPTS, 2), flown(model, settings, PROMPTS, 0))
    assert not foreseen


def test_an_observed_run_waits_for_every_step(model: Model, foreseen: list[int]) -> None:
    run = Engine(model, BASE).start(PROMPTS[:1], Recorder())
    run.ahead = 2
    assert not run._foreseeable()


def test_a_step_is_launched_before_the_one_before_is_read(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, wait, launch = list[str](), Readback.wait, Run._launch

    def waited(self: Readback) -> HostCanvas:
        order.append("wait")
        return wait(self)

    def launched(self: Run, moment: Moment) -> object:
        order.append("launch")
        return launch(self, moment)

    monkeypatch.setattr(Readback, "wait", waited)
    monkeypatch.setattr(Run, "_launch", launched)
    flown(model, replace(BASE, steps=3), PROMPTS[:1], 1)
    # The first wait is for the canvas that the run starts from.
    assert order == ["wait", "launch", "launch", "wait", "launch", "wait", "wait"]
