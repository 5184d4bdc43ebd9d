"""Steps of a request as they happen: each once, whoever reads, and however slowly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from skipstone import Engine, Fixed, Result, Settings, Threshold
from skipstone.cache import DualCache
from skipstone.engine import DecodedStep
from skipstone.engine.observe import StepView, Taps
from skipstone.models.load import Model
from skipstone.testing.tiny import MASK
from skipstone.unmask import Editing, UnmaskPolicy, Wino
from tests.helpers.watching import ending_model, prompt_of, uneven_model

BASE = Settings(gen_length=18, block_length=9, eos_stop=False)
UNMASKS: list[UnmaskPolicy] = [Threshold(0.3), Fixed(), Wino(0.2, 0.9), Editing(0.3, 0.2)]


def replayed(steps: Iterable[DecodedStep], length: int = 18) -> tuple[list[int], list[int]]:
    """The canvas that steps leave, and the one of what they said was final, each said once."""
    canvas, final = np.full(length, MASK), np.full(length, MASK)
    for step in steps:
        canvas[step.offsets_C] = step.tokens_C
        canvas[list(step.revoked)] = MASK
        assert (final[step.final_F] == MASK).all()
        final[step.final_F] = step.final_tokens_F
    return canvas.tolist(), final.tolist()


@pytest.mark.parametrize("cache", ["none", "dual"])
@pytest.mark.parametrize("unmask", UNMASKS, ids=repr)
def test_every_step_is_told_once_on_a_busy_engine(unmask: UnmaskPolicy, cache: str) -> None:
    engine = Engine(uneven_model(2), BASE.replace(cache=cache), slots=4)
    prompts = [prompt_of(n, 3 + n) for n in range(4)]
    beside = [engine.submit(prompt, unmask=Threshold(0.5)) for prompt in prompts[1:]]
    handle = engine.submit(prompts[0], unmask=unmask)

    async def read() -> list[DecodedStep]:
        return [step async for step in handle.steps()]

    for steps in (list(handle.steps()), asyncio.run(read())):
        result = handle.result(20)
        assert tuple(step.stats for step in steps) == result.stats.steps
        assert [step.number for step in steps] == list(range(len(steps)))
        assert replayed(steps) == (list(result.tokens), list(result.tokens))
    if isinstance(unmask, Wino):
        assert any(step.revoked for step in steps)
    if isinstance(unmask, Editing):
        assert result.stats.num_edits
    assert all(one.result(20).masks_left == 0 for one in beside)


def test_who_reads_slowly_holds_up_nobody_and_loses_nothing() -> None:
    engine = Engine(uneven_model(2), BASE, unmask=Fixed(), slots=2)

    async def read() -> tuple[list[DecodedStep], Result]:
        slow, steps = engine.submit(prompt_of(1, 4)), list[DecodedStep]()
        async for step in slow.steps():
            if not steps:
                # Its reader does nothing until it, and another request, are done.
                others = [await engine.submit(prompt_of(n, 5)) for n in range(2)]
                assert all(other.masks_left == 0 for other in others)
                await slow
            steps.append(step)
        return steps, await slow

    steps, result = asyncio.run(read())
    assert len(steps) == 18
    assert replayed(steps)[0] == list(result.tokens)


class Noting:
    """Notes which steps it was shown."""

    taps = Taps()

    def __init__(self) -> None:
        self.numbers = list[int]()

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        pass

    def on_step(self, view: StepView) -> None:
        # Whoever were told before would have time to read.
        time.sleep(0.02)
        self.numbers.append(view.context.only.forward)

    def on_end(self, results: Sequence[Result]) -> None:
        pass


def test_an_observer_is_shown_a_step_before_it_is_told() -> None:
    noting = Noting()
    engine = Engine(ending_model(0), BASE, unmask=Fixed(), cache=DualCache())
    for step in engine.submit(prompt_of(1, 4), observer=noting).steps():
        assert noting.numbers[step.number] == step.number
