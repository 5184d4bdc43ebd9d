"""8: the confidence is computed in another dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.decide import Rule as CommitRule
from skipstone.diagnosis.decide import commits, most_confident, recomputed, rounded
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of
from skipstone.record import Candidates, StepRecord, Tap, TensorKey
from skipstone.sentence import NOTHING, Sentence

_REMEDY = Sentence("compute the softmax of the confidence in float32 or better")


def examine(case: Case) -> Answer:
    """Look at the confidences; those of foreign code are not seen, but follow from its logits."""
    return _unseen(case) if case.foreign else _seen(case)


def _seen(case: Case) -> Answer:
    """Look for confidences that all lie on the grid of a coarser dtype than A's."""
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
    rule = CommitRule.of(case.record_b.header.settings)
    removed = added = None
    if rule is not None:
        removed = commits(rule, right) == right.committed
        added = commits(rule, right, lambda c: rounded(c, dtype)) == at.committed
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


@dataclass(frozen=True)
class _Decision:
    """One step of B, decided again from its logits."""

    step: StepRecord
    logits_CV: np.ndarray
    rule: CommitRule | None
    """What A commits by; None if that is not known."""

    @classmethod
    def of(cls, case: Case, step: StepRecord) -> _Decision | None:
        """The decision of a step; None if its logits were not recorded."""
        record, at = case.record_b, step.candidates.position
        key = TensorKey(step.forward, Tap.LOGITS, record.header.num_layers)
        tensor = case.runs.b.tensor(case.runs.sample_b, key)
        if tensor is None or not step.committed or not np.isin(at, tensor.positions).all():
            return None
        logits_CV = tensor.at(at)
        logits_CV[:, record.header.mask_id] = -np.inf
        return cls(step, logits_CV, _rule(case))

    def confidence(self, dtype: str) -> np.ndarray:
        """Of each candidate, float64 [C]."""
        return recomputed(self.logits_CV, dtype)

    def commits(self, dtype: str) -> tuple[int, ...]:
        """What the rule commits; without one, as many of the most confident as B committed."""
        if self.rule is not None:
            return commits(self.rule, self.step, lambda _: self.confidence(dtype))
        return most_confident(self.step, self.confidence(dtype), len(self.step.committed))

    def within(self, noise: float) -> bool:
        """Whether B's commits and those of float32 differ by noise in the confidence."""
        swapped = np.setxor1d(self.step.committed, self.commits("float32"))
        values = self.confidence("float32")[np.isin(self.step.candidates.position, swapped)]
        if values.size == 1 and self.rule is not None:
            values = np.append(values, self.rule.value)
        return bool(np.ptp(values) <= noise)


def _rule(case: Case) -> CommitRule | None:
    """What B should commit by: A's rule, or the threshold that was stated for B."""
    header = case.record_b.header
    stated = header.stated.get("threshold")
    if stated is None:
        return CommitRule.of(case.record_a.header.settings)
    return CommitRule.of({"unmask": f"threshold:value={stated}"})


def _unseen(case: Case) -> Answer:
    """Replay the decisions of foreign code from its logits, in float32 and in coarser dtypes."""
    taken = [d for s in case.record_b.steps if (d := _Decision.of(case, s)) is not None]
    odd = [d for d in taken if d.commits("float32") != d.step.committed]
    if (
        not odd
        or odd[0].step.forward > case.divergence.horizon
        or odd[0].within(case.noise.floor.confidence)
    ):
        return None
    for dtype in ("bfloat16", "float16"):
        if all(d.commits(dtype) == d.step.committed for d in taken):
            return _replayed(case, dtype, len(taken), odd)
    return None


def _replayed(case: Case, dtype: str, decisions: int, odd: Sequence[_Decision]) -> Finding:
    first = odd[0]
    changed = np.setxor1d(first.step.committed, first.commits("float32"))
    other = _other(case, first.step)
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the confidence is computed in {dtype}", dtype=dtype),
        where=place(first.step, None, int(changed[0])),
        evidence=Sentence(
            "{odd} of {decisions} decisions of B do not follow from its logits in float32, all "
            "follow from them in {dtype}",
            odd=len(odd),
            decisions=decisions,
            dtype=dtype,
        ),
        experiment=Sentence(
            "replayed the decisions from B's logits: in {dtype} B's commits, in float32 A's where "
            "they part",
            dtype=dtype,
        ),
        proof=proof_of(
            removed=other is not None and other.committed == first.commits("float32"), added=True
        ),
        remedy=_REMEDY,
        positions=tuple(changed.tolist()),
    )


RULE = Rule(8, "confidence-dtype", "confidence dtype differs", examine)
