"""Which slip explains the rows that left, by a rule that ranks rows?

What left is held against the rule as it is stated, and against the rule with one thing wrong: what
it is given, one of its settings, or how many rows go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np

from skipstone.diagnosis.case.expected import Expected
from skipstone.diagnosis.case.inquiry import Inquiry
from skipstone.diagnosis.case.runs import Runs
from skipstone.diagnosis.case.skip_stages import Given, RankedStage, stages_of
from skipstone.diagnosis.experiment import Rerun
from skipstone.errors import ConfigError
from skipstone.policies import SKIP
from skipstone.record import StepRecord, Tap, TensorKey, Trace
from skipstone.skip import SkipPolicy

Slip = Given | Literal["setting", "count"]

_GIVEN: tuple[Given, ...] = ("number", "renewed", "never", "committed", "older")
# Share of the stages that a slip has to explain: of nearly equal rows, rounding may take another.
_MOST = 0.9
# Forwards after the first deviation that are looked at, too: slips that are alike part in time.
_AFTER = 8


@dataclass(frozen=True)
class StageSlip:
    """What explains the rows that left."""

    slip: Slip
    step: StepRecord
    """The first whose rows the stated rule does not explain."""
    layer: int
    """After which these left, or should have."""
    positions: tuple[int, ...]
    """Rows that left, or went on, otherwise than stated."""
    explained: int
    """Stages that the slip explains."""
    stated: int
    """Stages that the stated rule explains."""
    stages: int
    """All of them, up to a few forwards after the first deviation."""
    setting: str
    """Name and value, where another setting explains it."""
    going: int
    """Rows that went on there."""
    due: int
    """Rows that should have."""


def stage_slip(runs: Runs, inquiry: Inquiry, expected: Expected) -> StageSlip | None:
    """What explains B's skips, where the rule that B states does not; None if nothing does."""
    policy = SKIP.recorded(runs.record_b.header.settings)
    deviation = expected.first_of("skip")
    if policy is None or deviation is None or expected.first_of("rows") is not None:
        return None
    stages = _stages(policy, runs, inquiry, deviation.step.forward + _AFTER)
    first = next((s for s in stages if not _follows(s, policy, "stated")), None)
    if first is None:
        return None
    best: tuple[int, Slip, str] | None = None
    for slip, other, setting in _slips(policy):
        explained = sum(_follows(s, other, slip) for s in stages)
        if _follows(first, other, slip) and (best is None or explained > best[0]):
            best = explained, slip, setting
    right = policy.ranking(first.rows["stated"])
    if best is None or best[0] < _MOST * len(stages) or right is None:
        return None
    due = first.position_N[right.order_N[: right.count]]
    return StageSlip(
        slip=best[1],
        step=first.step,
        layer=first.layer,
        positions=tuple(np.setxor1d(due, first.going).tolist()),
        explained=best[0],
        stated=sum(_follows(s, policy, "stated") for s in stages),
        stages=len(stages),
        setting=best[2],
        going=first.going.size,
        due=due.size,
    )


def _slips(policy: SkipPolicy) -> Iterator[tuple[Slip, SkipPolicy, str]]:
    """Each with the policy that is asked, and the setting that is another; the plainest first."""
    for given in _GIVEN:
        yield given, policy, ""
    for name, value in vars(policy).items():
        tried = (not value,) if isinstance(value, bool) else (0.0, 1.0)
        for other in tried if isinstance(value, bool | float) else ():
            # Another policy may refuse what ours allow.
            with suppress(ValueError):
                changed = type(policy)(**{**vars(policy), name: other})
                if other != value:
                    yield "setting", changed, f"{name}={str(other).lower()}"
    yield "count", policy, ""


def _follows(stage: RankedStage, policy: SkipPolicy, slip: Slip) -> bool:
    """Whether a rule lets these rows go on, and no others."""
    given = "stated" if slip == "setting" or slip == "count" else slip
    ranking = policy.ranking(stage.rows[given])
    if ranking is None:
        return False
    count = stage.going.size if slip == "count" else ranking.count
    return np.array_equal(np.sort(stage.position_N[ranking.order_N[:count]]), stage.going)


def _stages(policy: SkipPolicy, runs: Runs, inquiry: Inquiry, last: int) -> list[RankedStage]:
    """Those of B up to a forward; run again for its states, if these were not recorded."""
    try:
        after = policy.leaves_after(runs.record_b.header.num_layers)
    except ConfigError:
        return []
    if not after:
        return []
    trace: Trace | None = runs.b
    sample, first = runs.sample_b, runs.record_b.steps[0].forward
    if runs.b.tensor(sample, TensorKey(first, Tap.STATE, after[0])) is None:
        trace = inquiry.ask(Rerun("b", tensors=(first, last), until=last))
        sample = 0
    return [] if trace is None else list(stages_of(trace, sample, after, last))
