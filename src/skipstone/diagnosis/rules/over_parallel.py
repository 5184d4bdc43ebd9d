"""9: dependent tokens are committed together."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diagnosis.edits import edited_otherwise
from skipstone.diagnosis.experiment import Rescore
from skipstone.diagnosis.factors import swap
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of
from skipstone.record import Candidate, StepRecord
from skipstone.sentence import NOTHING, Sentence, listed

_SURE = 0.5


def examine(case: Case) -> Answer:
    """Look for a step in which B commits more than A, and score the extra tokens again."""
    step = None if case.divergence.forward is None else case.step_b(case.divergence.forward)
    first = case.divergence.first
    if step is None or first is None or first.kind != "committed_set":
        return None
    extra = [p for p in step.committed if p not in first.committed_a]
    if not extra or len(step.committed) <= len(first.committed_a) or edited_otherwise(case):
        return None
    by_rule = _by_rule(case, step)
    by_setting = swap(case) if case.expected.conforms or case.expected.trace is None else None
    unmask = by_setting is not None and by_setting.factors[0].setting == "unmask"
    if not (unmask or by_rule):
        return None
    removed = by_setting.removed if unmask and by_setting else _removed_by_rule(case, step)
    loops = case.loops.difference
    replayed = None if loops is None else loops.added
    added = by_setting.added if unmask and by_setting else replayed
    low = _rescored(case, step, extra)
    position = extra[0] if low is None else low.position
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence(
            "tokens are committed together that depend on each other"
            if low is not None and low.confidence < _SURE
            else "more tokens are committed together than A's rule allows"
        ),
        where=place(step, None, position),
        evidence=listed(
            [
                Sentence(
                    "B commits {b} tokens in this step, A {a}; {extra} of B's were not sure enough "
                    "for A",
                    b=len(step.committed),
                    a=len(first.committed_a),
                    extra=len(extra),
                ),
                NOTHING
                if low is None
                else Sentence(
                    "with everything else known, the token of position {position} has probability "
                    "{probability:.3g}",
                    position=low.position,
                    probability=low.confidence,
                ),
            ]
        ),
        experiment=by_setting.outcome
        if unmask and removed and by_setting
        else Sentence("replayed the decision with the stated rule: A's commits"),
        proof=proof_of(removed=removed, added=added),
        remedy=Sentence("raise the threshold, or commit fewer tokens a step"),
        positions=tuple(extra),
    )


def _by_rule(case: Case, step: StepRecord) -> bool:
    """Whether B commits more than its own rule allows, from its own confidences."""
    rule = CommitRule.of(case.record_b)
    if rule is None or rule.by_schedule or case.foreign:
        return False
    stated = rule.commits(step)
    return set(stated) < set(step.committed)


def _removed_by_rule(case: Case, step: StepRecord) -> bool | None:
    """Whether B's own rule, on B's own confidences, commits what A does."""
    rule, first = CommitRule.of(case.record_b), case.divergence.first
    if rule is None or first is None:
        return None
    return rule.commits(step) == first.committed_a


def _rescored(case: Case, step: StepRecord, extra: list[int]) -> Candidate | None:
    """The extra token that fits worst when it alone is masked again."""
    worst: Candidate | None = None
    for position in extra[:4]:
        ids = tuple(np.where(step.status_after == 2, step.ids_after, step.ids_after).tolist())
        trace = case.ask(Rescore("b", ids, (position,)))
        found = None if trace is None else trace.records[0].steps[0].candidates.at(position)
        if found is not None and (worst is None or found.confidence < worst.confidence):
            worst = found
    return worst


RULE = Rule(9, "over-parallel", "over-parallel commit", examine)
