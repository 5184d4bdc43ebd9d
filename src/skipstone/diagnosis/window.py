"""Which keys do the rows of a step see, if they are those from some position to another?

Each end is looked for alone, coarsely and then finely: the nearer it is to the right one, the less
the first states that are wrong differ from B's. What is found counts only if it gives B's scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.deviation import Deviation, errors
from skipstone.diagnosis.experiment import Choice, Follow
from skipstone.record import Tap, TensorKey

Window = tuple[int, int]
"""The first key that is seen, and one past the last."""

# Ends that are tried at once; between the best of them and its neighbours they are tried again.
_TRIED = 16


def seen_window(case: Case) -> Window | None:
    """The window of keys with which the reference run scores as B; None if none does.

    The rows themselves are taken to be seen.
    """
    step, length = case.tensors.step, case.record_b.length
    states = [d for d in case.tensors.born if d.kind == "state" and d.layer]
    if step is None or not step.rows.size or not states:
        return None
    starts, stops = range(int(step.rows.min()) + 1), range(int(step.rows.max()) + 1, length + 1)
    if len(starts) == 1 and len(stops) == 1:
        return None

    def away(window: Window) -> float:
        return _away(case, states[0], window)

    start = _nearest(starts, lambda first: away((first, length)))
    stop = _nearest(stops, lambda end: away((start, end)))
    # The other end was not known when the first one was looked for.
    start = start if stop == length else _nearest(starts, lambda first: away((first, stop)))
    found = start, stop
    whole = found == (0, length)
    return found if not whole and case.proof.reproduces(case.ask(_asked(case, found))) else None


def _nearest(ends: Sequence[int], away: Callable[[int], float]) -> int:
    """The end at which the error is least, among some of them and then around the best."""
    while True:
        some = np.linspace(0, len(ends) - 1, min(_TRIED, len(ends))).round().astype(int)
        best = min(range(some.size), key=lambda i: away(ends[some[i]]))
        if some.size == len(ends):
            return ends[best]
        low, high = max(0, best - 1), min(some.size - 1, best + 1)
        ends = ends[some[low] : some[high] + 1]


def _away(case: Case, first: Deviation, window: Window) -> float:
    """How far the first wrong states of B are from those of a run that sees a window."""
    trace, recorded = case.ask(_asked(case, window)), case.tensors.recorded
    if trace is None or recorded is None:
        return float("inf")
    key = TensorKey(case.tensors.focus, Tap.STATE, first.layer or 0)
    found = errors(*recorded, trace, key)
    return float("inf") if found is None else float(found[1].mean())


def _asked(case: Case, window: Window) -> Follow:
    forwards, led = (case.tensors.focus, case.tensors.focus), frozenset[Choice](("rows", "skip"))
    return Follow("b", "a" if case.foreign else "b", forwards, led=led, seen=window)
