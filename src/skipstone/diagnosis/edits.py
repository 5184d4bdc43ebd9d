"""Committed tokens that only one run edits: by another setting, or against its settings."""

from __future__ import annotations

from collections.abc import Sequence

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diagnosis.factors import swap
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import place, proof_of, tried
from skipstone.record import RunRecord, StepRecord
from skipstone.sentence import Sentence


def edited_otherwise(case: Case) -> tuple[int, ...]:
    """Positions at which the first decision that differs is about a token that was committed.

    Empty if masks are decided otherwise in the same step.
    """
    first = case.divergence.first
    if first is None or first.kind == "token":
        return ()
    differing = sorted(set(first.committed_a) ^ set(first.committed_b))
    # Both started from one canvas.
    edited = {position for step in _parting(case) for position in step.edited}
    return tuple(differing) if edited.issuperset(differing) else ()


def _parting(case: Case) -> list[StepRecord]:
    """The steps of A and of B in which they part; one of them if only one run has it."""
    first = case.divergence.first
    if first is None:
        return []
    sides = (case.record_a, first.forward_a), (case.record_b, first.forward_b)
    return [step for record, at in sides for step in record.steps if step.forward == at]


def of_edits(case: Case, positions: Sequence[int], rule: str, number: int) -> Finding | None:
    """What decides which committed tokens are edited.

    Args:
        case: two runs.
        positions: where only one of them edits.
        rule: name of the rule that asks.
        number: its number.
    """
    return _by_setting(case, positions, rule, number) or _against(case, positions, rule, number)


def _by_setting(case: Case, positions: Sequence[int], rule: str, number: int) -> Finding | None:
    found = swap(case) if case.expected.conforms else None
    if found is None or found.factors[0].setting != "unmask":
        return None
    first = case.divergence.first
    of_a = first is not None and positions[0] in first.committed_a
    step, back = _parting(case)[-1], first is not None and positions[0] in first.revoked
    return Finding(
        rule=rule,
        number=number,
        what=Sentence(
            "only one run takes these committed tokens back"
            if back
            else "only one run edits these committed tokens"
        ),
        where=place(step, None, positions[0]),
        evidence=Sentence(
            "{factors}; {run} takes {count} back in block {block}, step {step}"
            if back
            else "{factors}; {run} edits {count} in block {block}, step {step}",
            factors=found.said,
            run="A" if of_a else "B",
            count=len(positions),
            block=-1 if first is None else first.block,
            step=-1 if first is None else first.step,
        ),
        experiment=found.outcome,
        proof=proof_of(removed=found.removed, added=found.added),
        remedy=Sentence(
            "compare runs that take tokens back by the same rule"
            if back
            else "compare runs that edit by the same rule"
        ),
        positions=tuple(positions),
    )


def _against(case: Case, positions: Sequence[int], rule: str, number: int) -> Finding | None:
    """B edits otherwise than its settings say, on its own scores; or ends a block too early."""
    stated = CommitRule.of(case.record_b)
    if stated is None or case.foreign:
        return None
    deviation = case.expected.first_of("commit")
    if deviation is None or deviation.expected is None:
        return _left_early(case, stated, positions, rule, number)
    step, due = deviation.step, deviation.expected
    back = bool(step.revoked or due.revoked)
    replayed = stated.commits(step) == due.committed
    return Finding(
        rule=rule,
        number=number,
        what=Sentence(
            "committed tokens are taken back against the rule"
            if back
            else "committed tokens are edited against the rule"
        ),
        where=place(step, None, deviation.position),
        evidence=Sentence(
            "B takes {count} committed tokens back where {due} are due"
            if back
            else "B edits {count} committed tokens where {due} are due",
            count=len(step.edited),
            due=len(due.edited),
        ),
        experiment=tried(
            replayed,
            Sentence("replayed the stated rule on B's own scores: what is due"),
            Sentence("replayed the stated rule on B's own scores: not what is due"),
        ),
        proof=proof_of(removed=replayed or None, added=None),
        remedy=Sentence(
            "take a token back where it is below the bound, and is not seen"
            if back
            else "edit where another token than the committed one is above the bound"
        ),
        positions=tuple(deviation.positions.tolist()),
    )


def _left_early(
    case: Case, stated: CommitRule, positions: Sequence[int], rule: str, number: int
) -> Finding | None:
    """B has left a block that was still changing, with steps left in which it may."""
    first = case.divergence.first
    if first is None or first.kind != "stop" or not case.expected.conforms:
        return None
    steps = _of_block(case.record_b, first.block)
    post = sum(not step.masks_before for step in steps)
    most = stated.policy.post_steps_of_block
    if not steps or not steps[-1].committed or post >= most or first.forward_b >= 0:
        return None
    return Finding(
        rule=rule,
        number=number,
        what=Sentence("a block ends while tokens of it still change"),
        where=place(steps[-1], None, positions[0]),
        evidence=Sentence(
            "its last step changed {count} tokens, and {post} of {most} steps without masks were "
            "taken",
            count=len(steps[-1].committed),
            post=post,
            most=most,
        ),
        experiment=Sentence("A goes on from the same canvas"),
        proof=proof_of(removed=None, added=None),
        remedy=Sentence("end a block with the first step that changes nothing"),
        positions=tuple(positions),
    )


def _of_block(record: RunRecord, block: int) -> list[StepRecord]:
    return [step for step in record.steps if step.block == block]
