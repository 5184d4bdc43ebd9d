"""Unmask rules against literal loops: the schedule, the threshold, the factor, random order."""

from __future__ import annotations

from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipstone import Engine, Factor, Fixed, Threshold
from skipstone.blocks import Block
from skipstone.canvas import Canvas, Geometry, Status, StepContext
from skipstone.unmask import Scores, UnmaskPolicy
from tests.conftest import context_at
from tests.helpers.watching import Place, prompt_of, uneven_model, watch

CPU = torch.device("cpu")
QUICK = settings(deadline=None, derandomize=True, max_examples=150)
# Few values, so that equal confidences are common; -inf is what may not be committed.
confidences = st.lists(
    st.sampled_from([-inf, 0.05, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 1.0]),
    min_size=1,
    max_size=12,
)


def geometry(gen_length: int, batch: int = 1) -> Geometry:
    return Geometry(
        batch=batch,
        length=gen_length + 1,
        gen_length=gen_length,
        num_layers=1,
        width=1,
        dtype=torch.float32,
        device=CPU,
    )


def context(canvas: Canvas, step: int, step_budget: int) -> StepContext:
    return context_at(canvas, Block(0, 0, canvas.gen_length), step, step_budget)


def scores(rows: list[list[float]]) -> Scores:
    confidence_BG = torch.tensor(rows, dtype=torch.float64)
    return Scores(torch.zeros_like(confidence_BG, dtype=torch.int64), confidence_BG)


def chosen(policy: UnmaskPolicy, row: list[float], step: int = 0, budget: int = 1) -> list[int]:
    canvas = Canvas.start([[1]], len(row), 0, CPU)
    session = policy.start(geometry(len(row)))
    picked_BG = session.select(scores([row]), context(canvas, step, budget))
    return picked_BG[0].nonzero()[:, 0].tolist()


def ranked(row: list[float]) -> list[int]:
    """Offsets that may be committed, the surest first, equal ones from the left."""
    return sorted((i for i, c in enumerate(row) if c != -inf), key=lambda i: (-row[i], i))


def published_split(masks: int, steps: int) -> list[int]:
    """LLaDA's schedule: an equal share for each step, the remainder one by one to the first."""
    base, remainder = divmod(masks, steps)
    return [base + 1] * remainder + [base] * (steps - remainder)


@pytest.mark.parametrize("masks", [1, 2, 3, 5, 7, 8, 16, 31, 32, 33, 64])
def test_fixed_schedule_is_the_published_split(masks: int) -> None:
    for steps in range(1, masks + 1):
        canvas = Canvas.start([[1]], masks, 0, CPU)
        counts = list[int]()
        for step in range(steps):
            left_BG = canvas.masked_BG()
            confidence_BG = torch.rand(1, masks, dtype=torch.float64)
            confidence_BG = confidence_BG.masked_fill(~left_BG, -inf)
            offered = Scores(torch.ones(1, masks, dtype=torch.int64), confidence_BG)
            picked_BG = Fixed().select(offered, context(canvas, step, steps))
            counts.append(int(picked_BG.sum()))
            canvas.commit(picked_BG, offered.token_BG, Status.COMMITTED)
        assert counts == published_split(masks, steps), steps


def test_published_split_is_uneven_somewhere() -> None:
    assert published_split(7, 3) == [3, 2, 2]


@QUICK
@given(confidences, st.integers(1, 6))
def test_fixed_takes_the_surest_from_the_left(row: list[float], steps: int) -> None:
    share = -(-len(row) // steps)
    assert chosen(Fixed(), row, budget=steps) == sorted(ranked(row)[:share])


@QUICK
@given(confidences, st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_threshold_is_the_literal_rule(row: list[float], value: float) -> None:
    order = ranked(row)
    expected = [i for n, i in enumerate(order) if n == 0 or row[i] >= value]
    assert chosen(Threshold(value), row) == sorted(expected)


@QUICK
@given(confidences, st.floats(0.05, 4.0))
def test_factor_is_the_literal_loop(row: list[float], value: float) -> None:
    order = ranked(row)
    count = 0
    for n, i in enumerate(order, start=1):
        if n == 1 or row[i] >= 1.0 - value / (n + 1):
            count = n
        else:
            break
    assert chosen(Factor(value), row) == sorted(order[:count])


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(Threshold(0.9), [1]), (Factor(1.0), [1, 3]), (Fixed(), [0, 1, 3])],
)
def test_the_rules_differ_on_one_row(policy: UnmaskPolicy, expected: list[int]) -> None:
    row = [0.6, 0.8, -inf, 0.7, 0.2]
    assert chosen(policy, row, budget=2) == expected


def draws(rows: list[list[float]], budget: int, *seeds: int) -> Tensor:
    """What a random order commits in three steps."""
    session = Fixed("random").start(geometry(len(rows[0]), len(rows)))
    canvas = Canvas.start([[1]] * len(rows), len(rows[0]), 0, CPU)
    whole = Block(0, 0, canvas.gen_length)
    at = context_at(canvas, whole, 0, budget, seeds)
    return torch.stack([session.select(scores(rows), at) for _ in range(3)])


def test_random_order_is_reproducible_and_uses_the_seed() -> None:
    rows = [[0.9, *[0.5] * 15]]
    runs = {seed: [draws(rows, 4, seed) for _ in range(2)] for seed in range(6)}
    assert all(torch.equal(first, second) for first, second in runs.values())
    assert len({tuple(first.flatten().tolist()) for first, _ in runs.values()}) == 6


def test_random_order_is_uniform_over_what_may_be_committed() -> None:
    row = [0.99, -inf, 0.01, 0.5, -inf, 0.7]
    counts = torch.zeros(6, dtype=torch.int64)
    for seed in range(800):
        counts += draws([row], 6, seed)[0, 0]
    assert counts[[1, 4]].sum() == 0
    assert (counts[[0, 2, 3, 5]] - 200).abs().max() < 50


def test_random_order_of_a_request_does_not_know_its_batch() -> None:
    first, second = [0.5] * 9, [0.1, *[0.7] * 8]
    together = draws([first, second], 3, 3, 5)
    alone = draws([second], 3, 5)
    assert torch.equal(together[:, 1], alone[:, 0])
    assert not torch.equal(together[:, 0], together[:, 1])


def committed_in_order(order_seed: int | None) -> tuple[tuple[Place, ...], ...]:
    model = uneven_model(3)
    fixed = Fixed() if order_seed is None else Fixed("random")
    engine = Engine(model, unmask=fixed, seed=order_seed, gen_length=12, block_length=6)
    _, watcher = watch(engine, prompt_of(1, 5))
    return tuple(seen.committed for seen in watcher.steps)


def test_random_order_is_not_confidence_order_in_a_run() -> None:
    runs = [committed_in_order(seed) for seed in (None, 0, 1)]
    assert len(set(runs)) == 3
    assert committed_in_order(1) == runs[2]
    for run in runs:
        assert sorted(place for step in run for place in step) == [(0, p) for p in range(5, 17)]
