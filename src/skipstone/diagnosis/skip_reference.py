"""With the states of which forward were rows compared? Skips replayed from recorded states.

Other people's code does not say what its skip compares. Its states do: what skipped must be what
the stated thresholds let skip, given the right reference.

Shape letters: N rows, S compared layers, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.record import StepRecord, Tap, TensorKey, Trace
from skipstone.skip import CosineSkip


@dataclass(frozen=True, eq=False)
class OldReference:
    """Rows were compared with older states than those of the forward before."""

    forward: int
    """Whose states explain what skipped."""
    wrongly: int
    """Rows for which the states of the forward before say something else."""
    restores: bool
    """Whether the states of the forward before give the skips that are expected."""


def old_reference(case: Case, step: StepRecord, expected: StepRecord) -> OldReference | None:
    """The older forward whose states explain the skips of a step; None if that is not so."""
    stated = _stated(case.record_b.header.settings)
    if stated is None or case.tensors.recorded is None or step.forward < 2:
        return None
    trace, sample = case.tensors.recorded
    skips = np.isin(step.rows, step.skipped)
    last = _replayed(trace, sample, step, step.forward - 1, stated)
    whole = [
        s.forward
        for s in case.record_b.steps
        if s.forward < step.forward - 1 and s.rows.size == case.record_b.length
    ]
    older = _replayed(trace, sample, step, whole[-1], stated) if whole else None
    if last is None or older is None:
        return None
    if not np.array_equal(older, skips) or np.array_equal(last, skips):
        return None
    due = ~np.isin(step.rows, expected.finished)
    return OldReference(whole[-1], int((last != skips).sum()), np.array_equal(last, due))


def _stated(settings: Mapping[str, str]) -> CosineSkip | None:
    """What the calls of foreign code were given, by the names of the published token skip."""
    try:
        return CosineSkip(
            skip_layer_k=int(settings["skip_layer_k"]),
            skip_threshold=float(settings["skip_threshold"]),
            skip_outlier=float(settings.get("skip_outlier", "-1")),
        )
    except (KeyError, ValueError):
        return None


def _replayed(
    trace: Trace, sample: int, step: StepRecord, forward: int, stated: CosineSkip
) -> np.ndarray | None:
    """Bool [N]: which rows would skip; None if states were not recorded."""
    cosines = list[np.ndarray]()
    for layer in range(1, stated.skip_layer_k):
        now = trace.tensor(sample, TensorKey(step.forward, Tap.STATE, layer))
        before = trace.tensor(sample, TensorKey(forward, Tap.STATE, layer))
        for tensor in (now, before):
            if tensor is None or not np.isin(step.rows, tensor.positions).all():
                return None
        assert now is not None
        assert before is not None
        a_NW, b_NW = now.at(step.rows), before.at(step.rows)
        scale = np.linalg.norm(a_NW, axis=1) * np.linalg.norm(b_NW, axis=1)
        cosines.append(np.minimum((a_NW * b_NW).sum(1) / np.maximum(scale, 1e-30), 1.0))
    return stated.replay(np.stack(cosines, 1)).stable_J
