"""24: the schedule of commits is misaligned."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diagnosis.edits import edited_otherwise
from skipstone.diagnosis.factors import swap
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, of_the_loop, place, proof_of
from skipstone.diagnosis.rules.budget_exhausted import first_unfinished, masks_left
from skipstone.record import StepRecord
from skipstone.sentence import NOTHING, Sentence
from skipstone.unmask.ranking import ranks


def examine(case: Case) -> Answer:
    """As many commits as planned, of the best candidates? By setting, or against the settings."""
    record = case.record_b
    if masks_left(record) or first_unfinished(record) is not None or edited_otherwise(case):
        return None
    found = swap(case) if case.expected.conforms else None
    if found is not None and found.factors[0].name in ("steps", "unmask"):
        first, step = case.divergence.first, case.step_b(case.divergence.forward or 0)
        fewer = first is not None and len(first.committed_b) < len(first.committed_a)
        if found.factors[0].name == "steps" or fewer:
            return Finding(
                rule=RULE.name,
                number=RULE.number,
                what=Sentence("another number of tokens is committed in a step"),
                where=place(step, None, None if first is None else first.position),
                evidence=Sentence(
                    "{factors}; commits by step {b} against {a}",
                    factors=found.said,
                    b=_counts(case.record_b.steps),
                    a=_counts(case.record_a.steps),
                ),
                experiment=found.outcome,
                proof=proof_of(removed=found.removed, added=found.added),
                remedy=Sentence("compare runs with one schedule"),
            )
        return None
    return _against_the_settings(case) or of_the_loop(case, RULE.name, RULE.number)


def _against_the_settings(case: Case) -> Finding | None:
    deviation = case.expected.first_of("commit")
    rule = CommitRule.of(case.record_b)
    if (
        deviation is None
        or rule is None
        or case.expected.first_of("scores", "token", "rows", "skip")
    ):
        return None
    step, expected = deviation.step, deviation.expected
    if expected is None or len(step.committed) in (0, len(expected.committed)):
        return None
    if not rule.by_schedule and len(step.committed) > len(expected.committed):
        return None
    rank = ranks(step.candidates.allowed)
    best = bool((rank[step.candidates.committed] < len(step.committed)).all())
    replayed = rule.commits(step) == expected.committed
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the schedule of commits is misaligned"),
        where=place(step, None, deviation.position),
        evidence=Sentence(
            "B commits {count} of the best where {due} are due; by step {counts}"
            if best
            else "B commits {count} candidates where {due} are due; by step {counts}",
            count=len(step.committed),
            due=len(expected.committed),
            counts=_counts(case.record_b.steps),
        ),
        experiment=Sentence(
            "replayed the stated rule on B's own confidences: the right number of commits"
        )
        if replayed
        else NOTHING,
        proof=proof_of(removed=replayed or None, added=(replayed and best) or None),
        remedy=Sentence("count from the masks that are left and the steps that are left"),
        positions=tuple(deviation.positions.tolist()),
    )


def _counts(steps: tuple[StepRecord, ...]) -> str:
    shown = "+".join(str(len(s.committed)) for s in steps[:8])
    return shown + ("+..." if len(steps) > 8 else "")


RULE = Rule(24, "schedule", "schedule misalignment", examine)
