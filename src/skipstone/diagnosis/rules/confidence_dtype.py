"""8: the confidence is computed in another dtype."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.decide import Rule as CommitRule
from skipstone.diagnosis.decide import commits, rounded
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of
from skipstone.record import Candidates, StepRecord


def examine(case: Case) -> Answer:
    """Look for confidences that all lie on the grid of a coarser dtype than A's."""
    for step in case.record_b.steps:
        if step.forward > case.horizon:
            break
        other = _other(case, step)
        if other is None or len(step.candidates) < 3:
            continue
        dtype = _coarser(step.candidates, other.candidates)
        if dtype is not None:
            return _found(case, step, other, dtype)
    return None


def _other(case: Case, step: StepRecord) -> StepRecord | None:
    """The step as it should be, or as A took it."""
    if case.expected is not None:
        steps = case.expected.records[0].steps
        return next((s for s in steps if s.forward == step.forward), None)
    return case.same_step_a(step)


def _coarser(mine: Candidates, other: Candidates) -> str | None:
    """The coarsest dtype that holds all of these confidences and not those."""
    for dtype in ("bfloat16", "float16", "float32"):
        fits = np.array_equal(rounded(mine.confidence, dtype), mine.confidence)
        if fits and not np.array_equal(rounded(other.confidence, dtype), other.confidence):
            return dtype
    return None


def _found(case: Case, step: StepRecord, other: StepRecord, dtype: str) -> Finding:
    at = case.step_b(case.parted_at) if case.parted_at is not None else None
    at = at or step
    right = _other(case, at) or other
    rule = CommitRule.of(case.record_b.header.settings)
    removed = added = None
    if rule is not None:
        removed = commits(rule, right) == right.committed
        added = commits(rule, right, lambda c: rounded(c, dtype)) == at.committed
    position = int(step.candidates.position[0])
    changed = np.setxor1d(at.committed, right.committed)
    if changed.size:
        position = int(changed[0])
    tied = at.candidates.confidence.size - np.unique(at.candidates.confidence).size
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=f"the confidence is computed in {dtype}",
        where=place(at if changed.size else step, None, position),
        evidence=f"all {len(at.candidates)} confidences of B are numbers of {dtype}, A's are not; "
        f"{tied} of them are tied",
        experiment=""
        if rule is None
        else f"replayed the decision from A's confidences rounded to {dtype}: "
        f"{'B' if added else 'not B'}'s commits; unrounded: A's",
        proof=proof_of(removed=removed, added=added),
        remedy="compute the softmax of the confidence in float32 or better",
        positions=tuple(changed.tolist()),
    )


RULE = Rule(8, "confidence-dtype", "confidence dtype differs", examine)
