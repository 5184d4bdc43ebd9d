"""The rule of the skip that a record states, replayed on its similarities without the model.

The rule is the skip policy's own, as with commits.

Shape letters: J judged rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipstone.policies import SKIP
from skipstone.record import Judgements, RunRecord, StepRecord
from skipstone.skip import Bar, SkipPolicy, SkipReplay


@dataclass(frozen=True, eq=False)
class SkipRule:
    """A skip policy as a record states it."""

    policy: SkipPolicy
    bar: Bar
    record: RunRecord

    @classmethod
    def of(cls, record: RunRecord) -> SkipRule | None:
        """The rule of a record; None if it is not known here, or holds rows against no number."""
        policy = SKIP.recorded(record.header.settings)
        if policy is None or policy.bar is None:
            return None
        return cls(policy, policy.bar, record)

    def replay(self, judged: Judgements) -> SkipReplay | None:
        """What it says about recorded similarities."""
        return self.policy.replay(judged.similarity)

    def implied(self) -> tuple[float, float] | None:
        """The range of the bar that explains which rows were found stable.

        None if no bar explains it, or if it is the stated one.
        """
        judged = [s.judgements for s in self.record.steps if s.judgements is not None]
        held = [(j, self.replay(j)) for j in judged]
        known = [(j.stable, replay.measure_J) for j, replay in held if replay is not None]
        if not known:
            return None
        stable, measure = (np.concatenate(columns) for columns in zip(*known, strict=True))
        low = float(measure[~stable].max(initial=-1.0))
        high = float(measure[stable].min(initial=1.0))
        if low > high or not stable.any() or low <= self.bar.value <= high:
            return None
        return low, high


def left_too_early(step: StepRecord, expected: StepRecord) -> np.ndarray:
    """Positions of rows that left before a layer that they should have computed, ascending."""
    common, i, j = np.intersect1d(step.rows, expected.rows, return_indices=True)
    left, due = step.left_before[i], expected.left_before[j]
    return common[(left > 0) & ((due == 0) | (left < due))]


def implied_bar(record: RunRecord) -> tuple[float, float] | None:
    """As ``SkipRule.implied``; None if the rule is not known."""
    rule = SkipRule.of(record)
    return None if rule is None else rule.implied()
