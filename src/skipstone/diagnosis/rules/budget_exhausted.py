"""4: the step budget ended with masks left."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Rerun
from skipstone.diagnosis.factors import swap
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of
from skipstone.record import RunRecord, StepRecord
from skipstone.sentence import NOTHING, Sentence, listed

_MORE_STEPS = Sentence("loop until no mask is left (budget=finish), or raise steps")


def examine(case: Case) -> Answer:
    """Count the masks that B left, and see whether more steps would have filled them."""
    record = case.record_b
    left = masks_left(record)
    if record.outcome is None:
        return None
    if not left:
        return _filled_later(case)
    step = first_unfinished(record)
    steps = [s for s in record.steps if step is not None and s.block == step.block]
    proof, how = _by_setting(case) or _with_more_steps(case)
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the step budget ended with {left} masks left in the output", left=len(left)),
        where=place(step, None, left[0] if step is None else _first_mask(step)),
        evidence=listed(
            [
                Sentence(
                    "{left} of {total} new tokens are masks",
                    left=len(left),
                    total=len(record.tokens),
                ),
                Sentence(
                    "block {block} ended after {steps} steps", block=step.block, steps=len(steps)
                )
                if step
                else NOTHING,
                Sentence("A leaves some too") if masks_left(case.record_a) else NOTHING,
            ]
        ),
        experiment=how,
        proof=proof,
        remedy=_MORE_STEPS,
        positions=left,
    )


def _filled_later(case: Case) -> Finding | None:
    """A block of B ends with masks where A goes on; a later block fills them."""
    step = first_unfinished(case.record_b)
    if step is None or case.record_b.header.settings.get("budget") == "finish":
        return None
    proved = _by_setting(case)
    if proved is None and not _parts_here(case):
        return None
    proof, how = proved or (Proof.CONSISTENT, Sentence("A goes on from the same canvas"))
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence(
            "the step budget of a block ended with {left} masks left, which a later block fills",
            left=step.masks_after,
        ),
        where=place(step, None, _first_mask(step)),
        evidence=Sentence(
            "block {block} ended after {steps} steps",
            block=step.block,
            steps=sum(s.block == step.block for s in case.record_b.steps),
        ),
        experiment=how,
        proof=proof,
        remedy=_MORE_STEPS,
        positions=masks_of_block(step),
    )


def _by_setting(case: Case) -> tuple[Proof, Sentence] | None:
    """How well it is proved that the budget is what A and B differ in."""
    found = swap(case) if case.expected.conforms else None
    if found is None or not {f.setting for f in found.factors} <= {"budget", "steps"}:
        return None
    proof = proof_of(removed=found.removed, added=found.added)
    return proof, found.outcome


def _with_more_steps(case: Case) -> tuple[Proof, Sentence]:
    """How well it is proved by a run of B that may go on."""
    again = case.ask(Rerun("b", (("budget", "finish"), ("steps", "None"))))
    if again is None:
        if _parts_here(case):
            return Proof.CONSISTENT, Sentence("A goes on from the same canvas")
        return Proof.OBSERVED, NOTHING
    left = masks_left(again.records[0])
    proof = Proof.CONSISTENT if left else Proof.NECESSARY_AND_SUFFICIENT
    return proof, Sentence("with budget=finish {left} masks are left", left=len(left))


def _parts_here(case: Case) -> bool:
    """Whether A goes on where a block of B ends; else something earlier may have left the masks."""
    first, step = case.divergence.first, first_unfinished(case.record_b)
    if first is None or first.kind != "stop" or step is None or step.block != first.block:
        return False
    return not ends_committed(step, case.record_b.header.eos_id)


def ends_committed(step: StepRecord, eos_id: int) -> tuple[int, ...]:
    """Where a step commits an EOS."""
    return tuple(c.position for c in step.candidates if c.committed and c.token == eos_id)


def masks_left(record: RunRecord) -> tuple[int, ...]:
    """Absolute positions that hold a mask at the end."""
    mask = record.header.mask_id
    return tuple(record.prompt_length + i for i, token in enumerate(record.tokens) if token == mask)


def first_unfinished(record: RunRecord) -> StepRecord | None:
    """The last step of the first block that ended with masks."""
    last_of_block = {step.block: step for step in record.steps}
    return next((s for s in last_of_block.values() if s.masks_after), None)


def masks_of_block(step: StepRecord) -> tuple[int, ...]:
    """Absolute positions from the start of its block on that a step leaves masked."""
    masks = np.flatnonzero(step.status_after == 2) + step.prompt_length
    inside = (masks >= step.block_start) & (masks < step.block_stop)
    return tuple(masks[inside].tolist())


def _first_mask(step: StepRecord) -> int:
    """The first mask that a step leaves in its block."""
    return masks_of_block(step)[0]


RULE = Rule(4, "budget-exhausted", "step budget exhausted, masks left", examine)
