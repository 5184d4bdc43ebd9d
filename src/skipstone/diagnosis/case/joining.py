"""Did rows join in the midst of a forward where the cache policy says, from the values it had?

Some cache policies name rows anew before a layer: those that come in go on from what entered that
layer when they were last computed. Where B's did is held against what the stated policy says where
every layer is fed with B's own input: an error that came from elsewhere moves both alike.

Shape letters: L canvas length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from skipstone.diagnosis.case.expected import Expected
from skipstone.diagnosis.case.inquiry import Inquiry
from skipstone.diagnosis.case.layer_choice import first_otherwise, nudged, with_these_rows
from skipstone.diagnosis.case.runs import Runs
from skipstone.diagnosis.case.tensors import ComparedTensors
from skipstone.record import StepRecord

JoinSlip = Literal["never", "unasked", "late", "early", "others"]
"""None join and some should; some do and none should; all do before a later layer, or an earlier
one; others."""


@dataclass(frozen=True, eq=False)
class JoinedElsewhere:
    """Rows that joined before another layer than the policy says."""

    step: StepRecord
    layer: int
    """The first that computes other rows than it should."""
    slip: JoinSlip
    due: np.ndarray
    """int64: positions of the rows that should have joined."""
    due_before: int
    """The first layer before which they should have; 0 if none should."""
    joined: np.ndarray
    """int64: of those that did."""
    joined_before: int
    """The first layer before which they did; 0 if none did."""
    positions: np.ndarray
    """int64: those that this layer computes and should not, or should and does not."""


def joined_elsewhere(
    runs: Runs, inquiry: Inquiry, expected: Expected, tensors: ComparedTensors
) -> JoinedElsewhere | None:
    """The first rows that did not join where they should; None if all did."""
    step = first_otherwise(runs, expected, _first_layers)
    if step is None:
        return None
    there = replace(tensors, given=step.forward)
    right = with_these_rows(there.chosen, step)
    near = with_these_rows(inquiry.ask(nudged(runs, step)), step)
    if right is None or near is None:
        return None
    mine_L, due_L, near_L = (_first_layers(s) for s in (step, right, near))
    # Where the last bit turns what is right, both are.
    other_L = (mine_L != due_L) & (due_L == near_L)
    if not other_L.any():
        return None
    both = np.concatenate([mine_L[other_L], due_L[other_L]])
    layer = int(both[both > 1].min())
    # A layer that computes something else, given B's input and rows, is watched with other eyes.
    if any((d.layer or 0) < layer for d in there.born):
        return None
    due, joined = np.flatnonzero(due_L > 1), np.flatnonzero(mine_L > 1)
    return JoinedElsewhere(
        step=step,
        layer=layer,
        slip=_slip_of(mine_L[other_L], due_L[other_L]),
        due=due,
        due_before=int(due_L[due].min()) if due.size else 0,
        joined=joined,
        joined_before=int(mine_L[joined].min()) if joined.size else 0,
        positions=np.flatnonzero(other_L & ((mine_L == layer) | (due_L == layer))),
    )


def _first_layers(step: StepRecord) -> np.ndarray:
    """Int [L]: as recorded; where no row joins, 1 for those that entered and 0 for others."""
    if step.first_layers is not None:
        return step.first_layers
    first_L = np.zeros(step.entered_age.size, np.int32)
    first_L[step.rows] = 1
    return first_L


def _slip_of(mine: np.ndarray, due: np.ndarray) -> JoinSlip:
    """What explains all of the rows that joined elsewhere."""
    if not mine.any():
        return "never"
    if not due.any():
        return "unasked"
    if not (mine.all() and due.all()):
        return "others"
    return "late" if (mine > due).all() else "early" if (mine < due).all() else "others"
