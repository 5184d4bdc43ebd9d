"""How long runs take that were not timed, from those that were.

A run costs something for each forward and something for each row; both are fitted to all timed
runs. A setting costs more or less than that says, by what its policies do: that factor is the one
of its own timed runs. So ``seconds`` of a run that was decoded beside others is an estimate of what
it would have taken alone; of each setting at least one run was timed, unless it raised an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from skipstone.sweep.measure import Measurement


def filled(found: Sequence[Measurement]) -> list[Measurement]:
    """The same with an estimate of the time of each run that was not timed."""
    timed = [m for m in found if m.timed]
    cost_2 = _fitted(timed)
    factors = {name: _factor(cost_2, timed, name) for name in {m.setting for m in found}}
    return [m if m.timed or m.raised else _estimated(m, cost_2, factors[m.setting]) for m in found]


def _fitted(timed: Sequence[Measurement]) -> np.ndarray:
    """Seconds of a forward and of a row, float64 [2]; neither is negative."""
    work_N2 = np.array([_work(m) for m in timed], np.float64)
    seconds_N = np.array([m.seconds for m in timed])
    cost_2 = np.linalg.lstsq(work_N2, seconds_N, rcond=None)[0]
    if (cost_2 >= 0).all():
        return cost_2
    # Runs too much alike to tell both apart: all of it is that of the rows.
    return np.array([0.0, seconds_N.sum() / work_N2[:, 1].sum()])


def _factor(cost_2: np.ndarray, timed: Sequence[Measurement], name: str) -> float:
    """How much longer a setting takes than its forwards and rows say; 1 if none was timed."""
    own = [m for m in timed if m.setting == name]
    if not own:
        return 1.0
    return sum(m.seconds for m in own) / sum(float(cost_2 @ _work(m)) for m in own)


def _estimated(m: Measurement, cost_2: np.ndarray, factor: float) -> Measurement:
    seconds = factor * float(cost_2 @ _work(m))
    return replace(m, seconds=seconds, tokens_per_second=m.generated / seconds)


def _work(m: Measurement) -> tuple[float, float]:
    return float(m.forwards), float(m.rows)
