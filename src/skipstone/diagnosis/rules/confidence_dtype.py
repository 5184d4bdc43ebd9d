"""8: the confidence is computed in another dtype."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diagnosis.dtypes import rounded
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, of_the_loop, place, proof_of
from skipstone.record import Candidates, StepRecord
from skipstone.sentence import NOTHING, Sentence

_REMEDY = Sentence("compute the softmax of the confidence in float32 or better")


def examine(case: Case) -> Answer:
    """Look at the confidences; those of foreign code are not seen, but follow from its logits."""
    found = None if case.foreign else _seen(case)
    return found or of_the_loop(case, RULE.name, RULE.number)


def _seen(case: Case) -> Answer:
    """Look for confidences that are all values of a coarser dtype than A's."""
    for step in case.record_b.steps:
        if step.forward > case.divergence.horizon:
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
    if case.expected.trace is not None:
        steps = case.expected.trace.records[0].steps
        return next((s for s in steps if s.forward == step.forward), None)
    return case.divergence.same_step(step)


def _coarser(mine: Candidates, other: Candidates) -> str | None:
    """The coarsest dtype that holds all of these confidences and not those."""
    for dtype in ("bfloat16", "float16", "float32"):
        fits = np.array_equal(rounded(mine.confidence, dtype), mine.confidence)
        if fits and not np.array_equal(rounded(other.confidence, dtype), other.confidence):
            return dtype
    return None


def _found(case: Case, step: StepRecord, other: StepRecord, dtype: str) -> Finding:
    at = case.step_b(case.divergence.forward) if case.divergence.forward is not None else None
    at = at or step
    right = _other(case, at) or other
    rule = CommitRule.of(case.record_b)
    removed = added = None
    if rule is not None:
        removed = rule.commits(right) == right.committed
        added = rule.commits(right, lambda c: rounded(c, dtype)) == at.committed
    changed = np.setxor1d(at.committed, right.committed)
    position = int(changed[0]) if changed.size and at is step else None
    tied = at.candidates.confidence.size - np.unique(at.candidates.confidence).size
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the confidence is computed in {dtype}", dtype=dtype),
        where=place(step, None, position or int(step.candidates.position[0])),
        evidence=Sentence(
            "all {count} confidences of B are numbers of {dtype}, A's are not; {tied} of them are "
            "tied in block {block}, step {step}",
            count=len(at.candidates),
            dtype=dtype,
            tied=tied,
            block=at.block,
            step=at.step,
        ),
        experiment=NOTHING if rule is None else _rounded_replay(dtype, added=bool(added)),
        proof=proof_of(removed=removed, added=added),
        remedy=_REMEDY,
        positions=tuple(changed.tolist()),
    )


def _rounded_replay(dtype: str, *, added: bool) -> Sentence:
    template = (
        "replayed the decision from A's confidences rounded to {dtype}: B's commits; unrounded: A's"
        if added
        else "replayed the decision from A's confidences rounded to {dtype}: not B's commits; "
        "unrounded: A's"
    )
    return Sentence(template, dtype=dtype)


RULE = Rule(8, "confidence-dtype", "confidence dtype differs", examine)
