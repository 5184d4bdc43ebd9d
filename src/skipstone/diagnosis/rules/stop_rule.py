"""21: the runs stop by another rule."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.factors import swap
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of, tried
from skipstone.diagnosis.rules.budget_exhausted import (
    ends_committed,
    first_unfinished,
    masks_left,
    masks_of_block,
)
from skipstone.diff import Divergence
from skipstone.record import RunRecord, StepRecord
from skipstone.sentence import NOTHING, Sentence

_SETTINGS = ("eos_stop", "stop_after", "stop_ids")
_WHOLE_BLOCK = Sentence("loop until no mask is left in the block")
_STOP_LATE = Sentence("stop only when EOS is committed and nothing left of it is masked")


def examine(case: Case) -> Answer:
    """Tokens are equal up to a stop that only one run makes."""
    deviation = case.expected.first_of("end")
    if deviation is not None and not case.expected.first_of("commit", "token"):
        filled = np.flatnonzero(deviation.step.status_after == 4).size
        return Finding(
            rule=RULE.name,
            number=RULE.number,
            what=Sentence(
                "the run stops at EOS too early" if filled else "the run goes on after EOS"
            ),
            where=place(deviation.step, None, deviation.position),
            evidence=Sentence(
                "{positions} positions are filled by only one side's stop",
                positions=deviation.positions.size,
            ),
            experiment=tried(
                case.proof.fault_removed,
                Sentence("replayed the stated stop rule on B's canvas: the decisions are A's"),
                Sentence("replayed the stated stop rule on B's canvas: the decisions are not A's"),
            ),
            proof=proof_of(
                removed=case.proof.fault_removed if case.proof.only("end") else None, added=None
            ),
            remedy=_STOP_LATE,
            positions=tuple(deviation.positions.tolist()),
        )
    return _ended_at_eos(case) or _ended(case) or _by_setting(case)


def _ended_at_eos(case: Case) -> Finding | None:
    """Foreign code whose run or block ends with a step that commits an EOS, and leaves masks."""
    first, record = case.divergence.first, case.record_b
    if not case.foreign or first is None or first.kind != "stop" or record.outcome is None:
        return None
    step = first_unfinished(record) or record.steps[-1]
    if step.block != first.block and not _ended_with_a_block(record, first):
        return None
    ends, left = ends_committed(step, record.header.eos_id), masks_left(record)
    # Masks in earlier blocks are not left by this end.
    if not ends or not left or min(left) < step.block_start:
        return None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the run ends at the first EOS")
        if step is record.steps[-1]
        else Sentence("the block ends at the first EOS"),
        where=place(step, None, ends[0]),
        evidence=Sentence(
            "its last step commits EOS at position {position}; {left} masks are left, {before} of "
            "them before it",
            position=ends[0],
            left=len(left),
            before=sum(p < max(ends) for p in left),
        ),
        experiment=Sentence("A goes on from the same canvas"),
        proof=Proof.CONSISTENT,
        remedy=_STOP_LATE,
        positions=left,
    )


def _ended_with_a_block(record: RunRecord, first: Divergence) -> bool:
    """Whether the run has no block after the one whose last step committed the first EOS."""
    *before, last = record.steps
    goes_on = (first.block, first.step) == (last.block + 1, 0)
    return goes_on and not any(ends_committed(s, record.header.eos_id) for s in before)


def _ended(case: Case) -> Finding | None:
    """B ended, or left a block, with masks although its settings say that it goes on."""
    first = case.divergence.first
    stated = case.record_b.header.settings
    if first is None or first.kind != "stop" or stated.get("budget") != "finish":
        return None
    left, early = masks_left(case.record_b), first_unfinished(case.record_b)
    if not left and early is not None and early.block == first.block:
        return _left_early(early)
    if not left:
        return None
    steps = [s for s in case.record_b.steps if s.block <= first.block]
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("a block ends before its masks are filled"),
        where=place(steps[-1] if steps else None, None, left[0]),
        evidence=Sentence(
            "budget=finish is stated, and {left} masks are left in the output", left=len(left)
        ),
        experiment=NOTHING,
        proof=proof_of(removed=None, added=None),
        remedy=_WHOLE_BLOCK,
        positions=left,
    )


def _left_early(step: StepRecord) -> Finding:
    """A block ended with masks where A goes on, and a later block filled them."""
    left = masks_of_block(step)
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("a block ends before its masks are filled"),
        where=place(step, None, left[0]),
        evidence=Sentence(
            "budget=finish is stated, and block {block} ends with {left} masks, which a later "
            "block fills",
            block=step.block,
            left=len(left),
        ),
        experiment=NOTHING,
        proof=proof_of(removed=None, added=None),
        remedy=_WHOLE_BLOCK,
        positions=left,
    )


def _by_setting(case: Case) -> Finding | None:
    found = swap(case) if case.expected.conforms else None
    if found is None or found.factors[0].name not in _SETTINGS:
        return None
    first, step = case.divergence.first, case.step_b(case.divergence.forward or 0)
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("only one run stops at EOS"),
        where=place(step, None, None if first is None else first.position),
        evidence=found.said,
        experiment=found.outcome,
        proof=proof_of(removed=found.removed, added=found.added),
        remedy=Sentence("the text up to EOS is the same; compare tokens up to EOS"),
    )


RULE = Rule(21, "stop-rule", "stop, EOS or early exit differs", examine)
