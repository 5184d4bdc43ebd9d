"""Layers that add to a row what they added in an earlier forward, although the row has changed.

What a layer adds is its output without its input. Code that keeps the outputs of attention or of an
MLP hands them on from forward to forward; nothing else adds the same to another state.

Shape letters: N rows, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.record import RunRecord, StepRecord, Tap, TensorKey, Trace

# Forwards that are looked back to, the latest first.
_BACK = 32
# Units in the last place of the state by which sums may differ, and how much farther a row must
# have moved to be another one.
_ULPS, _MOVED = 4.0, 64.0
# Of the wrong rows, those that one side keeps and the other one computes again.
_MOST = 0.5


@dataclass(frozen=True, eq=False)
class StaleRows:
    """Rows to which B's layer adds what is old, and A's does not."""

    step: StepRecord
    layer: int
    forward: int
    """Whose it is: of the first row."""
    positions: np.ndarray
    """int [P]"""
    renewed: int
    """Wrong rows that A keeps, and B computes again."""
    wrong: int


@dataclass(frozen=True)
class _Side:
    trace: Trace
    sample: int
    record: RunRecord


def kept(case: Case) -> StaleRows | None:
    """Whether the first wrong states are those of a layer that adds what it has added before."""
    step, born = case.tensors.step, case.tensors.born
    states = [d for d in born if d.kind == "state" and d.layer]
    other = None if step is None else case.divergence.same_step(step)
    if step is None or other is None or not states or not states[0].layer:
        return None
    layer, wrong = states[0].layer, states[0].positions
    runs = case.runs
    mine = _old(_Side(runs.b, runs.sample_b, case.record_b), step, layer, wrong)
    theirs = _old(_Side(runs.a, runs.sample_a, case.record_a), other, layer, wrong)
    only_b = {p: forward for p, forward in mine.items() if p not in theirs}
    renewed = sum(p not in mine for p in theirs)
    if not only_b or len(only_b) + renewed < _MOST * wrong.size:
        return None
    positions = np.array(sorted(only_b))
    return StaleRows(step, layer, only_b[int(positions[0])], positions, renewed, wrong.size)


def _old(side: _Side, step: StepRecord, layer: int, wrong: np.ndarray) -> dict[int, int]:
    """Positions to which a layer adds what it added in an earlier forward, and in which."""
    found = dict[int, int]()
    now = _states(side, step.forward, layer, wrong)
    if now is None:
        return found
    at, input_NW, output_NW = now
    digits = np.finfo(np.float32).eps if "16" not in side.record.header.dtype else 2.0**-8
    earlier = [s.forward for s in side.record.steps if s.forward < step.forward]
    for forward in reversed(earlier[-_BACK:]):
        then = _states(side, forward, layer, at)
        if then is None:
            continue
        common, i, j = np.intersect1d(at, then[0], return_indices=True)
        before_NW, after_NW = then[1][j], then[2][j]
        size_N = np.abs(np.concatenate([input_NW[i], output_NW[i], before_NW], 1)).max(1)
        added_NW = output_NW[i] - input_NW[i]
        apart_N = np.abs(added_NW - (after_NW - before_NW)).max(1)
        moved_N = np.abs(input_NW[i] - before_NW).max(1)
        level_N = _ULPS * digits * size_N
        # A layer that adds nothing keeps nothing, and an equal row may well get the same again.
        adds_N = np.abs(added_NW).max(1) > _MOVED * level_N
        old_N = (apart_N <= level_N) & (moved_N > _MOVED * level_N) & adds_N
        for position in common[old_N].tolist():
            found.setdefault(position, forward)
    return found


def _states(
    side: _Side, forward: int, layer: int, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Rows that a layer was given and gave: positions [N], input and output float64 [N, W]."""
    keys = (TensorKey(forward, Tap.STATE, at) for at in (layer - 1, layer))
    given, gave = (side.trace.tensor(side.sample, key) for key in keys)
    if given is None or gave is None:
        return None
    at = np.intersect1d(np.intersect1d(given.positions, gave.positions), wanted)
    return at, given.at(at).astype(np.float64), gave.at(at).astype(np.float64)
