"""Replays recorded similarities from the states: with the row's own position, and with others.

Shape letters: J judged rows, S compared layers, W width, R reference rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.record import StepRecord, Tap, TensorKey, Trace

# Two rows are only confused if one explains what was recorded this much better than the other.
_CLEARLY = 1e-3


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
    """Work the similarities of a step out again; None if states were not recorded."""
    judgements = step.judgements
    if judgements is None or case.tensors_b is None:
        return None
    trace, sample = case.tensors_b
    now, before = _states(case, trace, sample, step)
    if now is None or before is None:
        return None
    now_JSW, (positions, before_RSW) = now, before
    cosine_JRS = _cosine(now_JSW, before_RSW)
    recorded_JS = judgements.similarity
    error_JR = np.abs(cosine_JRS - recorded_JS[:, None]).max(-1)
    best = error_JR.argmin(1)
    own = np.searchsorted(positions, judgements.position)
    rows = np.arange(own.size)
    right = cosine_JRS[rows, own]
    own_error, best_error = error_JR[rows, own], error_JR[rows, best]
    crossed = (best_error + _CLEARLY < own_error) & (best_error < _CLEARLY)
    return Replayed(right.mean(-1), positions[best], crossed)


def _states(
    case: Case, trace: Trace, sample: int, step: StepRecord
) -> tuple[np.ndarray | None, tuple[np.ndarray, np.ndarray] | None]:
    """States of the step [J, S, W], and of the forwards it was compared with [R, S, W]."""
    judgements = step.judgements
    assert judgements is not None
    layers = range(1, judgements.similarity.shape[1] + 1)
    now = _gather(trace, sample, step.forward, layers, judgements.position)
    forwards = judgements.reference_forward
    known = forwards[forwards >= 0]
    reference = int(known.max()) if known.size else step.forward - 1
    everywhere = case.reference_tensors(reference)
    if now is None or everywhere is None:
        return now, None
    first = everywhere.tensor(0, TensorKey(reference, Tap.STATE, 1))
    if first is None:
        return now, None
    positions = np.sort(first.positions)
    before = _gather(everywhere, 0, reference, layers, positions)
    return now, None if before is None else (positions, before)


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
