"""8: the confidence is computed in another dtype."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.decide import DTYPES, allowed, commits, rounded
from skipstone.diagnosis.decide import Rule as CommitRule
from skipstone.diagnosis.deviation import Deviation
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of
from skipstone.record import Candidates, StepRecord, Tap, TensorKey


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
    return _replayed(case) if case.foreign else None


def _replayed(case: Case) -> Finding | None:
    """Foreign code whose scores are right: does a coarser dtype explain what it commits?

    Its confidences were computed from its logits in float64, so the dtype of its own does not show.
    """
    deviation = case.first_of("commit")
    if deviation is None or deviation.expected is None:
        return None
    if case.first_of("scores", "confidence", "token", "rows", "skip"):
        return None
    step, wanted = deviation.step, deviation.expected.committed
    if not _chooses(step, allowed(step.candidates), wanted):
        return None
    for dtype in DTYPES:
        for how, confidence in _coarse(case, step, dtype):
            if _chooses(step, confidence, step.committed):
                return _by_replay(deviation, dtype, how, confidence)
    return None


def _coarse(case: Case, step: StepRecord, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    """The confidences as a dtype would have them: of rounded logits, and rounded."""
    candidates, header = step.candidates, case.record_b.header
    found = case.tensors_at(step.forward)
    key = TensorKey(step.forward, Tap.LOGITS, header.num_layers)
    logits = None if found is None else found[0].tensor(found[1], key)
    if logits is not None and np.isin(candidates.position, logits.positions).all():
        values_CV = rounded(logits.at(candidates.position), dtype)
        values_CV[:, header.mask_id] = -np.inf
        chance_CV = np.exp(values_CV - values_CV.max(1, keepdims=True))
        chance_C = chance_CV[np.arange(len(candidates)), candidates.token] / chance_CV.sum(1)
        yield (
            "the softmax is taken",
            np.where(candidates.eligible, rounded(chance_C, dtype), -np.inf),
        )
    yield "the confidence is rounded", rounded(allowed(candidates), dtype)


def _chooses(step: StepRecord, confidence: np.ndarray, commits: tuple[int, ...]) -> bool:
    """Whether these commits are the best by a confidence, or all that reach the bound."""
    committed = np.isin(step.candidates.position, commits)
    bound = step.candidates.bound
    if np.isfinite(bound).all() and (confidence >= bound).any():
        return bool((committed == (confidence >= bound)).all())
    lowest = confidence[committed].min(initial=np.inf)
    return bool((confidence[~committed] <= lowest).all())


def _by_replay(deviation: Deviation, dtype: str, how: str, confidence: np.ndarray) -> Finding:
    step, changed = deviation.step, deviation.positions
    at = np.isin(step.candidates.position, changed)
    exact = ", ".join(f"{c:.5f}" for c in step.candidates.confidence[at][:4])
    coarse = ", ".join(f"{c:.5f}" for c in confidence[at][:4])
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=f"the confidence is computed in {dtype}",
        where=place(step, None, deviation.position),
        evidence=f"{how} in {dtype}: confidences {exact} of positions "
        f"{', '.join(map(str, changed[:4].tolist()))} become {coarse}",
        experiment=f"replayed the decision from B's own logits: in {dtype} it is B's, in float64 "
        "it is A's",
        proof=proof_of(removed=True, added=True),
        remedy="compute the softmax of the confidence in float32 or better",
        positions=tuple(changed.tolist()),
    )


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
