"""7: equal confidences, ordered otherwise."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.rule import Answer, Rule, place
from skipstone.record import StepRecord
from skipstone.sentence import Sentence


def examine(case: Case) -> Answer:
    """Replay the decision from equal candidates, with ties broken one way and the other."""
    found = _pair(case)
    if found is None:
        return None
    step, wanted = found
    swapped = np.setxor1d(step.committed, wanted)
    if len(step.committed) != len(wanted) or not swapped.size:
        return None
    confidence = {c.position: c.confidence for c in step.candidates}
    values = np.array([confidence.get(int(p), np.nan) for p in swapped])
    apart = float(np.ptp(values))
    if not apart <= case.noise.floor.confidence:
        return None
    rule = CommitRule.of(case.record_b)
    lowest = None if rule is None else rule.commits(step)
    highest = None if rule is None else rule.commits_highest_first(step)
    both = lowest == tuple(wanted) and highest == step.committed
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence(
            "equal confidences are committed in another order"
            if apart == 0
            else "confidences closer than noise are committed in another order"
        ),
        where=place(step, None, int(swapped[0])),
        evidence=Sentence(
            "positions {swapped} have confidences {apart:.1e} apart; B takes {b}, A {a}",
            swapped=", ".join(map(str, swapped.tolist())),
            apart=apart,
            b=_missing(step.committed, wanted),
            a=_missing(wanted, step.committed),
        ),
        experiment=Sentence(
            "replayed the decision: lowest position first gives A's commits, highest first gives "
            "B's"
            if both
            else "replayed the decision with lowest position first: A's commits"
        ),
        proof=Proof.NECESSARY_AND_SUFFICIENT if both else Proof.CONSISTENT,
        remedy=Sentence("break ties by the lowest position (a stable sort)"),
        positions=tuple(swapped.tolist()),
    )


def _pair(case: Case) -> tuple[StepRecord, tuple[int, ...]] | None:
    """The step whose commits differ, and the right ones."""
    deviation = case.expected.first_of("commit")
    if deviation is not None and deviation.expected is not None:
        if case.expected.first_of("scores", "confidence", "token", "rows"):
            return None
        return deviation.step, deviation.expected.committed
    first = case.divergence.first
    step = None if case.divergence.forward is None else case.step_b(case.divergence.forward)
    if first is None or first.kind != "committed_set" or step is None or case.runs.settings_differ:
        return None
    return step, first.committed_a


def _missing(mine: tuple[int, ...], other: tuple[int, ...]) -> str:
    return ", ".join(str(p) for p in sorted(set(mine) - set(other))) or "–"


RULE = Rule(7, "commit-tie", "tie of the commit order", examine)
