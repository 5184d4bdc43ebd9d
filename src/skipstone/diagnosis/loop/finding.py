"""A difference of rules as a cause: what it is, where, and how it was proved."""

from __future__ import annotations

from skipstone.diagnosis.finding import Finding, Place, Proof
from skipstone.diagnosis.loop.difference import RuleDifference, RulePart
from skipstone.diagnosis.loop.words import differs, explained, follows
from skipstone.sentence import NOTHING, Sentence, listed

COMMIT_RULE = "commit-rule"
"""What is said of two loops whose rules differ in a way that no other diagnosis is about."""

_NAMES: dict[RulePart, str] = {
    "drawn": "sampler",
    "kind": "reveal-order",
    "dtype": "confidence-dtype",
    "region": "region-boundaries",
    "block length": "region-boundaries",
    "nothing": "no-commit",
}


def diagnosis_of(found: RuleDifference) -> str:
    """The name of the diagnosis that a difference belongs to."""
    regions = any(part in ("region", "block length") for part in found.parts)
    # How many a step commits follows from how many blocks there are.
    parts = [p for p in found.parts if not (regions and p in ("number", "value", "of canvas"))]
    names = {_name(found, part) for part in parts}
    return names.pop() if len(names) == 1 else COMMIT_RULE


def finding(found: RuleDifference, number: int) -> Finding:
    """The cause, ready to be shown.

    Args:
        found: the difference, replayed.
        number: of its diagnosis.
    """
    step = found.b.evidence.decisions[found.at_b].step
    positions = found.positions
    return Finding(
        rule=diagnosis_of(found),
        number=number,
        what=_what(found),
        where=Place(step.block, step.step, None, positions[0] if positions else None),
        evidence=evidence_of(found),
        experiment=_experiment(found),
        proof=_proof(found),
        remedy=_remedy(found),
        positions=positions,
    )


# One decision, or two, may be explained by luck.
_FEW = 3


def _proof(found: RuleDifference) -> Proof:
    """Few decisions show what a loop did, not by what rule it did it; chance would explain any.

    That A's rule decides B's scores as A shows no more than that B follows another one.
    """
    if found.fit_b is not None and found.fit_b.rule.confidence.kind == "any":
        return Proof.OBSERVED
    if found.fit_b is not None and not found.fit_b.rule.predicts:
        return Proof.CONSISTENT
    sides = ((found.a, found.fit_a), (found.b, found.fit_b))
    few = any(
        fit is not None and fit.explains.size < _FEW and not side.stated.states(fit.rule)
        for side, fit in sides
    )
    if few or not found.fit_a.rule.draw.greedy:
        return Proof.CONSISTENT
    return Proof.NECESSARY_AND_SUFFICIENT if found.added else Proof.SUFFICIENT


def _name(found: RuleDifference, part: RulePart) -> str:
    """A number or a value is a matter of the schedule if both loops follow one."""
    if part == "forced" and found.fit_b is not None and not found.fit_b.rule.selection.forced:
        return "no-commit"
    if part not in ("number", "value", "of canvas") or found.fit_b is None:
        return _NAMES.get(part, COMMIT_RULE)
    sure = ("at least", "above", "factor")
    numbers = (found.fit_a.rule.selection.number, found.fit_b.rule.selection.number)
    return COMMIT_RULE if any(n in sure for n in numbers) else "schedule"


def _what(found: RuleDifference) -> Sentence:
    return listed([differs(found, part) for part in found.parts])


def evidence_of(found: RuleDifference) -> Sentence:
    """What both loops follow, as far as that is known."""
    a = Sentence(
        "A follows: {rule} ({steps} of {steps} steps)",
        rule=follows(found.fit_a.rule, found.a.stated),
        steps=found.fit_a.explains.size,
    )
    if found.fit_b is not None:
        b = Sentence(
            "B follows: {rule} ({explained})",
            rule=follows(found.fit_b.rule, found.b.stated),
            explained=explained(found.fit_b, found.b.next_best),
        )
        return listed([a, b, *_of_chance(found)])
    best = found.b.best
    return listed(
        [
            a,
            Sentence(
                "none of {tried} rules explains B but by chance; the plainest of those: {rule}"
                if best.complete
                else "none of {tried} rules explains B; the best, {rule}, explains {count} of "
                "{steps} steps",
                tried=found.b.tried,
                rule=follows(best.rule, found.b.stated),
                count=best.count,
                steps=best.explains.size,
            )
            if best is not None
            else NOTHING,
        ]
    )


def _of_chance(found: RuleDifference) -> list[Sentence]:
    """That one side alone draws numbers for its tokens, where that was heard."""
    a, b = found.a.evidence, found.b.evidence
    if "drawn" not in found.parts or a.drew_over_ids == b.drew_over_ids:
        return []
    return [
        Sentence("only B draws random numbers over the vocabulary")
        if b.drew_over_ids
        else Sentence("only A draws random numbers over the vocabulary")
    ]


def _experiment(found: RuleDifference) -> Sentence:
    removed = Sentence("B's scores decided by A's rule: A's commits")
    if not found.added:
        return removed
    return listed([Sentence("A's scores decided by B's rule: B's commits"), removed])


def _remedy(found: RuleDifference) -> Sentence:
    return Sentence(
        "let B commit by A's rule: {rule}", rule=follows(found.fit_a.rule, found.a.stated)
    )
