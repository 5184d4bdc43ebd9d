"""4: the step budget ended with masks left."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Rerun
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.rule import Answer, Rule, place
from skipstone.record import RunRecord, StepRecord


def examine(case: Case) -> Answer:
    """Count the masks that B left, and see whether more steps would have filled them."""
    record = case.record_b
    left = masks_left(record)
    if record.outcome is None or not left:
        return None
    step = _first_unfinished(record)
    steps = [s for s in record.steps if step is not None and s.block == step.block]
    again = case.ask(Rerun("b", (("budget", "finish"), ("steps", "None"))))
    fixed = None if again is None else masks_left(again.records[0])
    also = " (A leaves some too)" if masks_left(case.record_a) else ""
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=f"the step budget ended with {len(left)} masks left in the output",
        where=place(step, None, left[0]),
        evidence=f"{len(left)} of {len(record.tokens)} new tokens are masks; block "
        f"{step.block if step else '?'} ended after {len(steps)} steps{also}",
        experiment="" if fixed is None else f"with budget=finish {len(fixed)} masks are left",
        proof=Proof.OBSERVED
        if fixed is None
        else (Proof.NECESSARY_AND_SUFFICIENT if not fixed else Proof.CONSISTENT),
        remedy="loop until no mask is left (budget=finish), or raise steps",
        positions=left,
    )


def masks_left(record: RunRecord) -> tuple[int, ...]:
    """Absolute positions that hold a mask at the end."""
    mask = record.header.mask_id
    return tuple(record.prompt_length + i for i, token in enumerate(record.tokens) if token == mask)


def _first_unfinished(record: RunRecord) -> StepRecord | None:
    """The last step of the first block that ended with masks."""
    last_of_block = {step.block: step for step in record.steps}
    return next((s for s in last_of_block.values() if s.masks_after), None)


RULE = Rule(4, "budget-exhausted", "step budget exhausted, masks left", examine)
