"""Does a layer add to the rows that it leaves out what it should have kept of them?

Some cache policies have a layer compute some rows, and add to the others what the layer, or its
MLP, added to them last. Where states of such rows alone are wrong, although all that entered the
layer is B's own, that is what was kept.

Shape letters: N wrong rows, M other rows, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from skipstone.diagnosis.case.tensors import ComparedTensors
from skipstone.diagnosis.deviation import Deviation
from skipstone.diagnosis.fit import nearest
from skipstone.record import StepRecord, Tap, TensorKey, Trace

KeptSlip = Literal["nothing", "old", "row", "others"]
"""Nothing is added; what was added in an earlier forward than the last that computed the row; what
belongs to another row; something else."""

# Share of the wrong rows that a slip has to explain.
_MOST = 0.75
# Forwards that are looked back to, the latest first.
_BACK = 8
# Units in the last place of the states by which sums may differ, and how much closer a row must be.
_ULPS, _CLEARLY = 32.0, 4.0


@dataclass(frozen=True, eq=False)
class KeptWrong:
    """Rows to which B's layers add something else than they should have kept."""

    step: StepRecord
    layer: int
    """The first that does."""
    slip: KeptSlip
    positions: np.ndarray
    """int64: of the rows of this layer."""
    other: int
    """The forward, or the position, whose it is, of the first row; -1 where that is not known."""
    wrong: tuple[Deviation, ...]
    """States of such rows, by layer."""
    size: float
    floor: float


@dataclass(frozen=True, eq=False)
class _Added:
    """What a layer added to rows."""

    positions: np.ndarray
    values_NW: np.ndarray
    level: float
    """By how much sums may differ."""


def kept_wrong(tensors: ComparedTensors) -> KeptWrong | None:
    """Rows to which B adds what it should not have kept; None if there are none, or other errors.

    Args:
        tensors: of B, in the step in question.
    """
    step = tensors.step
    if step is None or step.layer_parts is None or tensors.local is None:
        return None
    wrong = tuple(d for d in tensors.born if d.kind == "state" and d.layer)
    if not wrong or not all(_left_out(step, d) for d in tensors.born if d.kind != "logits"):
        return None
    first = wrong[0]
    slip, other = _slip_of(tensors, step, first)
    return KeptWrong(
        step=step,
        layer=first.layer or 0,
        slip=slip,
        positions=first.positions,
        other=other,
        wrong=wrong,
        size=first.size,
        floor=first.floor,
    )


def _left_out(step: StepRecord, wrong: Deviation) -> bool:
    """Whether a layer has computed none of the rows that are wrong, or not all of them."""
    if not wrong.layer or step.layer_parts is None:
        return False
    part_N = step.layer_parts[wrong.layer - 1]
    return bool(np.isin(wrong.positions, step.rows[part_N < 3]).all())


def _slip_of(tensors: ComparedTensors, step: StepRecord, first: Deviation) -> tuple[KeptSlip, int]:
    """What explains most rows of the first layer, and whose values these are."""
    layer, at = first.layer or 0, first.positions
    if tensors.recorded is None or tensors.local is None or step.layer_parts is None:
        return "others", -1
    mine = _added(*tensors.recorded, step.forward, layer, at)
    right = _added(tensors.local, 0, step.forward, layer, step.rows)
    # Of a row whose attention is computed, what the MLP added is not known by itself.
    if mine is None or right is None or (step.layer_parts[layer - 1] == 2).any():
        return "others", -1
    own_N = _apart(mine.values_NW, _at(right, mine.positions))

    def explained(other_NW: np.ndarray, level: float) -> np.ndarray:
        apart_N = _apart(mine.values_NW, other_NW)
        return (apart_N <= max(level, mine.level)) & (apart_N * _CLEARLY < own_N)

    if explained(np.zeros_like(mine.values_NW), mine.level).mean() >= _MOST:
        return "nothing", -1
    forward = _older(tensors, step, layer, mine, own_N)
    if forward is not None:
        return "old", forward
    others = right.positions[nearest(mine.values_NW, right.values_NW).rows]
    if explained(_at(right, others), right.level).mean() >= _MOST:
        return "row", int(others[0])
    return "others", -1


def _older(
    tensors: ComparedTensors, step: StepRecord, layer: int, mine: _Added, own_N: np.ndarray
) -> int | None:
    """The earlier forward of which most rows are, of the first row; None if they are of none."""
    whose_N = np.full(mine.positions.size, -1)
    earlier = [s.forward for s in tensors.runs.record_b.steps if s.forward < step.forward]
    for forward in reversed(earlier[-_BACK:]):
        there = tensors.at(forward)
        then = None if there is None else _added(*there, forward, layer, mine.positions)
        if then is None or then.positions.size < mine.positions.size:
            continue
        apart_N = _apart(mine.values_NW, then.values_NW)
        old_N = (apart_N <= max(then.level, mine.level)) & (apart_N * _CLEARLY < own_N)
        whose_N[old_N & (whose_N < 0)] = forward
    known = whose_N[whose_N >= 0]
    return int(known[0]) if known.size >= _MOST * whose_N.size else None


def _added(
    trace: Trace, sample: int, forward: int, layer: int, wanted: np.ndarray
) -> _Added | None:
    """What a layer added to rows in a forward; None if its states were not recorded."""
    keys = (TensorKey(forward, Tap.STATE, at) for at in (layer - 1, layer))
    given, gave = (trace.tensor(sample, key) for key in keys)
    if given is None or gave is None:
        return None
    at = np.intersect1d(np.intersect1d(given.positions, gave.positions), wanted)
    if not at.size:
        return None
    given_NW, gave_NW = given.at(at), gave.at(at)
    size = float(np.abs(np.concatenate([given_NW, gave_NW])).max())
    digits = 2.0**-8 if "16" in trace.records[sample].header.dtype else np.finfo(np.float32).eps
    return _Added(at, gave_NW - given_NW, _ULPS * float(digits) * size)


def _at(added: _Added, positions: np.ndarray) -> np.ndarray:
    """What was added at positions, in their order, [M, W]; they are among those that are known."""
    return added.values_NW[np.searchsorted(added.positions, positions)]


def _apart(a_NW: np.ndarray, b_NW: np.ndarray) -> np.ndarray:
    """The largest difference in each row, [N]."""
    return np.abs(a_NW - b_NW).max(1)
