"""Schedules by time, and Fast-dLLM's threshold for Dream, against the published loops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone import Engine, Settings
from skipstone.blocks import Block
from skipstone.canvas import Canvas, HostCanvas, Status
from skipstone.errors import ConfigError
from skipstone.tracing import Recorder
from skipstone.unmask import DreamThreshold, Fixed, Scores, UnmaskPolicy
from tests.conftest import context_at
from tests.helpers.watching import prompt_of, uneven_model

CPU = torch.device("cpu")
QUICK = settings(deadline=None, derandomize=True, max_examples=150)
Row = list[float]


def decoded(policy: UnmaskPolicy, rows: list[Row], budget: int) -> list[list[int]]:
    """What a policy commits in each step; the confidences of step i are ``rows[i]``."""
    length = len(rows[0])
    canvas, steps = Canvas.start([[1]], length, 0, CPU), list[list[int]]()
    while canvas.masked_BG().any():
        step = len(steps)
        masked_BG = canvas.masked_BG()
        sure_BG = torch.tensor([rows[step % len(rows)]], dtype=torch.float64)
        sure_BG = sure_BG.masked_fill(~masked_BG, -inf)
        offered = Scores(torch.ones_like(canvas.region_BG), sure_BG, sure_BG / 2, 3 - sure_BG)
        context = context_at(canvas, Block(0, 0, length), step, budget)
        picked_BG = policy.select(offered.only(policy.needs), context)
        steps.append(picked_BG[0].nonzero()[:, 0].tolist())
        assert steps[-1], "a step that commits nothing"
        canvas.commit(picked_BG, offered.token_BG, Status.COMMITTED)
    return steps


def published_times(masks: int, steps: int, eps: float, first: int = 0) -> list[int]:
    """``diffusion_generate``: how many each step commits; with a cache, from its second step on."""
    times, counts = torch.linspace(1, eps, steps + 1), list[int]()
    for i in range(first, steps):
        t, s = times[i], times[i + 1]
        left = torch.tensor(float(masks))
        count = int(left * (1 - s / t)) if i < steps - 1 else masks
        counts.append(count)
        masks -= count
    return counts


@pytest.mark.parametrize("masks", [1, 2, 7, 8, 12, 27, 32, 51, 64])
@pytest.mark.parametrize("eps", [1e-3, 1e-2, 0.3])
def test_shares_by_time_are_the_published_ones_without_the_empty_steps(
    masks: int, eps: float
) -> None:
    rows = [[1 - i / masks for i in range(masks)]]
    for steps in (1, 2, 3, 5, 8, 16, 20, 32, 48, 100):
        policy = Fixed(schedule="time", eps=eps)
        found = [len(step) for step in decoded(policy, rows, steps)]
        assert found == [count for count in published_times(masks, steps, eps) if count], steps


@pytest.mark.parametrize("masks", [2, 7, 8, 16, 32])
def test_behind_a_first_mask_alone_the_time_goes_on(masks: int) -> None:
    rows = [[i / masks for i in range(masks)]]
    for steps in (2, 3, 4, 8, 16, 40):
        policy = Fixed(schedule="time", first_alone=True)
        first, *rest = decoded(policy, rows, steps)
        assert first == [0]
        counts = published_times(masks - 1, steps, 1e-3, first=1)
        assert [len(step) for step in rest] == [count for count in counts if count], steps


def test_a_single_step_that_commits_one_alone_is_followed_by_the_rest() -> None:
    rows = [[0.5] * 6]
    assert decoded(Fixed(schedule="time", first_alone=True), rows, 1) == [[0], [1, 2, 3, 4, 5]]


@QUICK
@given(st.integers(1, 40), st.integers(1, 60), st.data())
def test_by_time_a_canvas_that_is_partly_filled_goes_on(
    masks: int, steps: int, data: st.DataObject
) -> None:
    canvas = Canvas.start([[1]], masks, 0, CPU)
    filled = data.draw(st.integers(0, masks - 1))
    status = np.full((1, masks), int(Status.MASK))
    status[0, :filled] = Status.COMMITTED
    canvas.put(HostCanvas(np.zeros((1, masks), np.int64), status))
    sure_BG = torch.rand(1, masks, dtype=torch.float64).masked_fill(~canvas.masked_BG(), -inf)
    context = context_at(canvas, Block(0, 0, masks), 0, steps)
    offered = Scores(torch.ones_like(canvas.region_BG), sure_BG)
    assert Fixed(schedule="time").select(offered, context).any()


@pytest.mark.parametrize("schedule", ["even", "time"])
def test_orders_are_those_of_their_scores(schedule: str) -> None:
    canvas = Canvas.start([[1]], 4, 0, CPU)
    context = context_at(canvas, Block(0, 0, 4), 0, 4)
    values = ([0.9, 0.8, 0.7, -inf], [0.1, 0.5, 0.2, 0.9], [3.0, 2.0, 1.0, 0.0])
    sure, margin, entropy = (torch.tensor([row], dtype=torch.float64) for row in values)
    offered = Scores(torch.ones_like(canvas.region_BG), sure, margin, entropy)
    for order, best in (("confidence", 0), ("margin", 1), ("entropy", 2)):
        policy = Fixed(order, schedule, eps=0.1)  # type: ignore[arg-type]
        picked_BG = policy.select(offered.only(policy.needs), context)
        assert picked_BG[0].nonzero()[:, 0].tolist() == [best]


def ranked(row: Row, masked: list[int]) -> list[int]:
    return sorted(masked, key=lambda i: (-row[i], i))


def published_brake(rows: list[Row], steps: int, threshold: float) -> list[list[int]]:
    """``generation_utils.py``: the quota, what is left is carried over, and steps are added."""
    masked, found = list(range(len(rows[0]))), list[list[int]]()
    quota, carried, i = len(masked) // steps, 0, 0
    while i < steps and masked:
        row = rows[len(found) % len(rows)]
        seen, carried = ranked(row, masked)[: quota + carried], 0
        taken = list(seen)
        for k in seen[1:]:
            if row[k] < threshold:
                if i == steps - 1:
                    quota, steps = 0, steps + 1
                carried += 1
                taken.remove(k)
        found.append(sorted(taken))
        masked = [k for k in masked if k not in taken]
        i += 1
    return found


def published_cached(rows: list[Row], steps: int, threshold: float) -> list[list[int]]:
    """``generation_utils_block.py``: the refresh takes the first, then the threshold decides."""
    masked, found = list(range(1, len(rows[0]))), [[0]]
    while masked:
        row = rows[len(found) % len(rows)]
        order = ranked(row, masked)
        found.append(sorted(k for n, k in enumerate(order) if n == 0 or row[k] >= threshold))
        masked = [k for k in masked if k not in found[-1]]
    return found


sure = st.sampled_from([0.05, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 1.0])


@QUICK
@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([0.3, 0.75, 0.9]), st.data())
@pytest.mark.parametrize(
    ("policy", "published"),
    [
        (partial(DreamThreshold, cached=False), published_brake),
        (DreamThreshold, published_cached),
    ],
    ids=["no cache", "cached"],
)
def test_fast_dllms_threshold_for_dream_is_the_published_loop(
    policy: Callable[[float], UnmaskPolicy],
    published: Callable[[list[Row], int, float], list[list[int]]],
    steps: int,
    quota: int,
    value: float,
    data: st.DataObject,
) -> None:
    length = steps * quota
    rows = data.draw(st.lists(st.lists(sure, min_size=length, max_size=length), min_size=1))
    assert decoded(policy(value), rows, steps) == published(rows, steps, value)


def test_a_block_of_one_step_that_begins_alone_is_finished_before_the_next_is_begun() -> None:
    for schedule in ("even", "time"):
        recorder = Recorder()
        unmask = f"fixed:schedule={schedule},first_alone=true"
        shape = Settings(gen_length=12, block_length=6, steps=2, eos_stop=False, unmask=unmask)
        Engine(uneven_model(2), shape).generate(prompt_of(0, 5), observer=recorder)
        steps = recorder.records[0].steps
        assert [step.block for step in steps] == [0, 0, 1, 1]
        assert [len(step.committed) for step in steps] == [1, 5, 1, 5]
        # Else the first step of the next block might be on its way before this is seen.
        assert not shape.unmask.keeps_to_schedule


def test_an_end_of_time_beside_an_even_schedule_is_said_to_be_idle() -> None:
    assert "eps=0.1 has no effect" in Settings(unmask=Fixed(eps=0.1)).idle()[0]
    assert not Settings(unmask=Fixed(schedule="time", eps=0.1)).idle()


def test_more_steps_than_masks_are_for_a_schedule_by_time_alone() -> None:
    assert Settings(gen_length=8, steps=48, unmask="fixed:schedule=time").steps == 48
    with pytest.raises(ConfigError, match="steps is 48, must be between one for each block"):
        Settings(gen_length=8, steps=48, unmask="fixed")


def test_values_out_of_range_are_refused() -> None:
    for eps in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="fixed eps is"):
            Fixed(eps=eps)
    with pytest.raises(ConfigError, match="dream_threshold value is 2"):
        DreamThreshold(2.0)
