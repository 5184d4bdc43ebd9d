"""How many a step commits: for which values of its free number does a selection give a choice?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import cos, inf, pi

import numpy as np

from skipstone.diagnosis.loop.choice import BlockProgress, StepChoice
from skipstone.diagnosis.loop.rule import ConfidenceKind, Number, ValueRange

# Where Dream's schedule ends.
_EPS = 1e-3


def allowed(
    number: Number,
    choice: StepChoice,
    place: BlockProgress,
    kind: ConfidenceKind,
    *,
    steps: int,
    forced: bool,
) -> ValueRange | None:
    """The values of the free number by which a selection gives this choice; None without any.

    Args:
        number: the kind of the selection.
        choice: what the step chose.
        place: where it stands in its block.
        kind: of the confidence.
        steps: that a schedule has for the block; it has no other free number.
        forced: whether the best is always chosen.
    """
    if not choice.order.size and choice.worst == inf:
        return ValueRange(-inf, inf)
    match number:
        case "each step":
            found = _each(choice)
        case "some":
            found = ValueRange(-inf, inf) if kind != "any" else None
        case "all":
            found = ValueRange(-inf, inf) if choice.emptied else None
        case "at least" | "above":
            found = _threshold(choice, strict=number == "above", forced=forced, kind=kind)
        case "factor":
            found = _factor(choice)
        case _:
            due = _due(number, place, steps)
            fits = choice.least <= due <= choice.most or (due > choice.most and choice.emptied)
            found = ValueRange(steps, steps) if fits else None
    return None if found is None or found.empty else found


def shares(number: Number, began: int, steps: int) -> Sequence[int]:
    """How many each step of a block commits by a schedule that is planned when it begins."""
    whole, more = divmod(began, steps)
    match number:
        case "remainder first":
            return [whole + (i < more) for i in range(steps)]
        case "remainder last":
            return [whole + (i >= steps - more) for i in range(steps)]
        case "rounded share":
            return _rounded(began, steps, lambda t, s: 1 - s / t)
        case "cosine":
            return _rounded(began, steps, lambda t, s: 1 - _masked(s) / _masked(t))
        case "timesteps":
            return _timesteps(began, steps)
        case _:
            raise ValueError(f"{number} is no schedule")


def _each(choice: StepChoice) -> ValueRange | None:
    if choice.most == 0:
        return None
    return ValueRange(max(1, choice.least), inf if choice.emptied else choice.most)


def _threshold(
    choice: StepChoice, *, strict: bool, forced: bool, kind: ConfidenceKind
) -> ValueRange | None:
    if kind == "any" or (choice.most == 0 and forced):
        return None
    bounds = ValueRange(0.0, 1.0) if kind in ("probability", "margin") else ValueRange(-inf, inf)
    # Alone, the best may have been taken although it missed the threshold.
    worst = inf if forced and choice.least <= 1 and not _others(choice) else choice.worst
    passed = choice.passed
    return bounds.meet(
        ValueRange(passed, worst, low_included=strict, high_included=not strict or worst == inf)
    )


def _others(choice: StepChoice) -> bool:
    """Whether something was committed beside the best."""
    return choice.order.size > 0 and choice.worst < choice.order[0]


def _factor(choice: StepChoice) -> ValueRange | None:
    count = choice.most
    if count == 0 or choice.least != choice.most:
        return None
    rank = np.arange(choice.order.size)
    value = (1.0 - choice.order) * (rank + 2.0)
    # Where all that is left was taken, the last may have been taken in passing.
    inner = value[1 : count - 1 if choice.emptied else count]
    low = float(inner.max(initial=0.0))
    high = inf if choice.emptied or count >= value.size else float(value[count])
    return ValueRange(low, high, high_included=high == inf)


def _due(number: Number, place: BlockProgress, steps: int) -> int:
    if number == "share of the rest":
        return -(-place.left // max(1, steps - place.step))
    if number == "timesteps" and place.step < steps:
        # It asks at each step how many masks are left, whoever committed the others.
        return _share_by_time(place.left, place.step, steps)
    plan = _plan(number, place.began, steps)
    if place.step < len(plan):
        return plan[place.step]
    return place.left if number in ("remainder first", "remainder last") else 0


@lru_cache(maxsize=512)
def _plan(number: Number, began: int, steps: int) -> Sequence[int]:
    return tuple(shares(number, began, steps))


def _rounded(
    began: int, steps: int, share: Callable[[np.float32, np.float32], np.floating | float]
) -> list[int]:
    """A rounded share of what is left, step by step; steps without a share are left out."""
    left, found = began, list[int]()
    for i in range(steps):
        # Libraries hold times in float32, and a half is rounded by its last digit.
        t, s = np.float32((steps - i) / steps), np.float32((steps - i - 1) / steps)
        due = min(round(left * float(share(t, s))), left)
        left -= due
        if due:
            found.append(due)
    return found


def _masked(time: np.float32) -> float:
    """Share of masks at a time, by the cosine schedule."""
    return cos(pi / 2 * (1 - float(time)))


def _timesteps(began: int, steps: int) -> list[int]:
    """Whole shares of what is left, by evenly spaced times that end above zero."""
    left, found = began, list[int]()
    for i in range(steps):
        found.append(_share_by_time(left, i, steps))
        left -= found[-1]
    return found


def _share_by_time(left: int, step: int, steps: int) -> int:
    if step == steps - 1:
        return left
    times = np.linspace(1, _EPS, steps + 1, dtype=np.float32)
    return int(np.float32(left) * (1 - times[step + 1] / times[step]))
