"""Replays recorded similarities from the states: with the row's own position, and with others.

Shape letters: J judged rows, S compared layers, W width, R reference rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.dtypes import rounded
from skipstone.record import Judgements, StepRecord, Tap, TensorKey, Trace

# Two rows are only confused if one explains what was recorded this much better than the other.
_CLEARLY = 1e-3
# In a coarse dtype both are off by a few steps of its grid, and the better one says nothing.
_GRIDS = {"bfloat16": 2.0**-6, "float16": 2.0**-9}


@dataclass(frozen=True, eq=False)
class Replayed:
    """Similarities of one step, worked out again."""

    right_mean: np.ndarray
    """float64 [J]: with the row's own position."""
    other: np.ndarray
    """int [J]: the position that explains the recorded similarities best."""
    crossed: np.ndarray
    """bool [J]: another position explains them, and the row's own does not."""


def replayed(case: Case, step: StepRecord) -> Replayed | None:
    """Work the similarities of a step out again; None if states were not recorded.

    Each row is held against the states of its own reference forward: a row that skipped keeps an
    older reference than one that was computed.
    """
    judgements = step.judgements
    if judgements is None or case.tensors.recorded is None:
        return None
    trace, sample = case.tensors.recorded
    position, recorded_JS = judgements.position, judgements.similarity
    layers = range(1, recorded_JS.shape[1] + 1)
    now_JSW = _gather(trace, sample, step.forward, layers, position)
    if now_JSW is None:
        return None
    forwards = _reference_forwards(step, judgements)
    found = Replayed(np.zeros(len(judgements)), position.copy(), np.zeros(len(judgements), bool))
    for forward in np.unique(forwards).tolist():
        rows = np.flatnonzero(forwards == forward)
        before = _states(case, forward, layers)
        if before is None or not np.isin(position[rows], before[0]).all():
            return None
        positions, before_RSW = before
        cosine_JRS = _cosine(now_JSW[rows], before_RSW)
        error_JR = np.abs(cosine_JRS - recorded_JS[rows, None]).max(-1)
        own, best = np.searchsorted(positions, position[rows]), error_JR.argmin(1)
        each = np.arange(rows.size)
        own_error, best_error = error_JR[each, own], error_JR[each, best]
        clearly = _clearly(recorded_JS)
        found.right_mean[rows] = cosine_JRS[each, own].mean(-1)
        found.other[rows] = positions[best]
        found.crossed[rows] = (best_error + clearly < own_error) & (best_error < clearly)
    return found


def _clearly(recorded_JS: np.ndarray) -> float:
    """By how much one position must explain a similarity better than another."""
    coarse = (d for d in _GRIDS if np.array_equal(rounded(recorded_JS, d), recorded_JS))
    return max((_GRIDS[dtype] for dtype in coarse), default=_CLEARLY)


def _reference_forwards(step: StepRecord, judgements: Judgements) -> np.ndarray:
    """Int [J]: the forward that each row was compared with; where not known, the latest."""
    forwards = judgements.reference_forward
    latest = forwards.max(initial=-1)
    return np.where(forwards >= 0, forwards, latest if latest >= 0 else step.forward - 1)


def _states(case: Case, forward: int, layers: range) -> tuple[np.ndarray, np.ndarray] | None:
    """Positions [R] and states [R, S, W] of a forward that rows were compared with."""
    everywhere = case.tensors.reference(forward)
    if everywhere is None:
        return None
    first = everywhere.tensor(0, TensorKey(forward, Tap.STATE, 1))
    if first is None:
        return None
    positions = np.sort(first.positions)
    before = _gather(everywhere, 0, forward, layers, positions)
    return None if before is None else (positions, before)


def _gather(
    trace: Trace, sample: int, forward: int, layers: range, positions: np.ndarray
) -> np.ndarray | None:
    taken = list[np.ndarray]()
    for layer in layers:
        rows = trace.tensor(sample, TensorKey(forward, Tap.STATE, layer))
        if rows is None or not np.isin(positions, rows.positions).all():
            return None
        taken.append(rows.at(positions))
    return np.stack(taken, 1)


def _cosine(a_JSW: np.ndarray, b_RSW: np.ndarray) -> np.ndarray:
    """float64 [J, R, S]."""
    a_JSW = a_JSW / np.linalg.norm(a_JSW, axis=-1, keepdims=True)
    b_RSW = b_RSW / np.linalg.norm(b_RSW, axis=-1, keepdims=True)
    return np.minimum(np.einsum("jsw,rsw->jrs", a_JSW, b_RSW), 1.0)
