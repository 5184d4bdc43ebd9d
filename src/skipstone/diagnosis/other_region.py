"""Loops that begin with other blocks: their steps stand side by side nowhere."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.rule import place
from skipstone.sentence import NOTHING, Sentence


def other_region(case: Case) -> Finding | None:
    """In the first step of all, which is behind no block that was left early, B goes beyond A's."""
    first, steps_a, steps_b = case.divergence.first, case.record_a.steps, case.record_b.steps
    if first is None or first.kind != "stop" or not steps_a or not steps_b:
        return None
    a, b = steps_a[0], steps_b[0]
    if a.block == b.block or not np.array_equal(a.ids_before, b.ids_before):
        return None
    start, stop = a.block_start, a.block_stop
    within = b.ids_after[max(0, start - a.prompt_length) : stop - a.prompt_length]
    behind = min((p for p in b.committed if p >= stop), default=None)
    if behind is None or not (within == case.record_b.header.mask_id).any():
        return None
    return Finding(
        rule="region-boundaries",
        number=16,
        what=Sentence("B begins behind the block that A begins with"),
        where=place(b, None, behind),
        evidence=Sentence(
            "A decodes positions {start} to {last} as a block, B commits position {position} and "
            "leaves masks there",
            start=start,
            last=stop - 1,
            position=behind,
        ),
        experiment=NOTHING,
        proof=Proof.CONSISTENT,
        remedy=Sentence("begin the blocks of each prompt where its own prompt ends"),
        positions=(behind,),
    )
