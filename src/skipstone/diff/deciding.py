"""Which forwards are steps, where two runs are held against each other.

A step decides: it scores masks, or commits. Code that decodes over a cache may make forwards that
only write keys and values (of the prompt, of a finished block), where other code writes the same
ones in a step that decides. What such a forward wrote is seen in the step after it. It is compared
with its counterpart; where the other run has none, it is no step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np

from skipstone.record.schema import RunRecord, StepRecord

_Place = tuple[int, int]
"""A block, and how many steps of it have decided."""


def decides(step: StepRecord, after: StepRecord | None) -> bool:
    """Whether a forward scores a mask or commits; ours write keys and values in such steps.

    Args:
        step: a forward.
        after: the next one. Where it is the same call again, and fills the block, one of the two
            has only written, too early: to which of them the commit belongs, nobody tells.
    """
    if step.positions_from == "engine" or step.committed:
        return True
    if after is not None and not after.masks_after and _again(step, after):
        return False
    return bool(step.candidates.eligible.any())


def _again(step: StepRecord, after: StepRecord) -> bool:
    same = step.block == after.block and step.canvas == after.canvas
    return same and np.array_equal(step.rows, after.rows)


def steps_of_both(a: RunRecord, b: RunRecord) -> tuple[RunRecord, RunRecord]:
    """Two runs without the forwards that only write and that only one of them makes.

    Steps are counted within their block as if these had not been made.
    """
    lone_a, lone_b = _lone(a, b), _lone(b, a)
    return _without(counted(a, b), lone_a), _without(counted(b, a), lone_b)


def counted(run: RunRecord, other: RunRecord) -> RunRecord:
    """A run with all its forwards; one that has no counterpart has the number of the step after."""
    lone = _lone(run, other)
    return replace(run, steps=tuple(_counted(run.steps, lone))) if lone else run


def _lone(run: RunRecord, other: RunRecord) -> frozenset[int]:
    """Forwards that only write, where the other run makes not as many."""
    mine, theirs = _writes(run), _writes(other)
    lone = (mine[at] for at in mine if len(mine[at]) != len(theirs.get(at, ())))
    return frozenset(step.forward for steps in lone for step in steps)


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
    if not lone or len(lone) == len(run.steps):
        return run
    return replace(run, steps=tuple(step for step in run.steps if step.forward not in lone))


def _counted(steps: Sequence[StepRecord], lone: frozenset[int]) -> Iterator[StepRecord]:
    left_out = dict[int, int]()
    for step in steps:
        before = left_out.get(step.block, 0)
        yield replace(step, step=step.step - before) if before else step
        if step.forward in lone:
            left_out[step.block] = before + 1
