"""Forwards that only write keys and values, and that only one of two runs makes, are set aside.

Such a forward is compared with its counterpart; where the other run has none, it is no step
(``record/deciding.py``).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest

from skipstone.record.deciding import decides
from skipstone.record.schema import RunRecord, StepRecord

_Place = tuple[int, int]
"""A block, and how many steps of it have decided."""


def steps_of_both(a: RunRecord, b: RunRecord) -> tuple[RunRecord, RunRecord]:
    """Two runs without the forwards that only write and that only one of them makes."""
    return _without(a, lone_writes(a, b)), _without(b, lone_writes(b, a))


def lone_writes(run: RunRecord, other: RunRecord) -> frozenset[int]:
    """Forwards that only write, where the other run makes not as many."""
    mine, theirs = _writes(run), _writes(other)
    lone = (mine[at] for at in mine if len(mine[at]) != len(theirs.get(at, ())))
    found = frozenset(step.forward for steps in lone for step in steps)
    return found if len(found) < len(run.steps) else frozenset()


def _writes(run: RunRecord) -> dict[_Place, list[StepRecord]]:
    found, decided = dict[_Place, list[StepRecord]](), dict[int, int]()
    for step, after in zip_longest(run.steps, run.steps[1:]):
        before = decided.setdefault(step.block, 0)
        if decides(step, after):
            decided[step.block] = before + 1
        else:
            found.setdefault((step.block, before), []).append(step)
    return found


def _without(run: RunRecord, lone: frozenset[int]) -> RunRecord:
    if not lone:
        return run
    return replace(run, steps=tuple(step for step in run.steps if step.forward not in lone))
