"""31: the loops follow different commit rules."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diagnosis.edits import edited_otherwise, of_edits
from skipstone.diagnosis.factors import swap
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.loop import COMMIT_RULE
from skipstone.diagnosis.rule import Answer, Rule, of_the_loop, place, proof_of, tried
from skipstone.sentence import Code, Sentence
from skipstone.unmask import Need


def examine(case: Case) -> Answer:
    """Rules that edit or remember otherwise, by setting or against it; or other rules."""
    if edited := edited_otherwise(case):
        return of_edits(case, edited, COMMIT_RULE, RULE.number)
    rule = CommitRule.of(case.record_b)
    if rule is not None and not rule.policy.pure and (found := _by_setting(case, rule)):
        return found
    if rule is not None and Need.LOGITS in rule.policy.needs:
        return _against_the_settings(case, rule)
    return of_the_loop(case, COMMIT_RULE, RULE.number)


def _by_setting(case: Case, rule: CommitRule) -> Finding | None:
    """A setting of a policy that remembers something decides."""
    found = swap(case) if case.expected.conforms else None
    if found is None or found.factors[0].setting != "unmask":
        return None
    first, step = case.divergence.first, case.step_b(case.divergence.forward or 0)
    return Finding(
        rule=COMMIT_RULE,
        number=RULE.number,
        what=Sentence("another setting of the unmask policy decides"),
        where=place(step, None, None if first is None else first.position),
        evidence=Sentence(
            "{factors}; {policy} chooses by what it remembers of earlier steps",
            factors=found.said,
            policy=Code(rule.name),
        ),
        experiment=found.outcome,
        proof=proof_of(removed=found.removed, added=found.added),
        remedy=Sentence("compare runs with the same unmask policy and settings"),
    )


def _against_the_settings(case: Case, rule: CommitRule) -> Finding | None:
    """Scores that do not follow from the logits of the model, which are right."""
    deviation = case.expected.first_of("scores", "confidence", "token")
    if deviation is None or case.expected.first_of("rows", "skip"):
        return None
    if case.tensors.step is None or case.tensors.away:
        return None
    removed = case.proof.fault_removed
    return Finding(
        rule=COMMIT_RULE,
        number=RULE.number,
        what=Sentence("the unmask policy chooses by other logits than its settings give"),
        where=place(deviation.step, None, deviation.position),
        evidence=Sentence(
            "{count} candidates have other scores, by up to {size:.2g}, and the logits of the "
            "model are right; {policy} adds to them what it remembers",
            count=deviation.positions.size,
            size=deviation.size,
            policy=Code(rule.name),
        ),
        experiment=tried(
            removed,
            Sentence("decided again with the policy as it is here: A's decisions"),
            Sentence("decided again with the policy as it is here: not A's decisions"),
        ),
        proof=proof_of(removed=removed or None, added=None),
        remedy=Sentence("check what the policy adds to the logits, and when it forgets"),
        positions=tuple(deviation.positions.tolist()),
    )


RULE = Rule(31, COMMIT_RULE, "commit rules differ", examine)
