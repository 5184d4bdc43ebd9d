"""Loops that begin with other blocks: their steps stand side by side nowhere."""

from __future__ import annotations

from itertools import takewhile

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.rule import place
from skipstone.record import StepRecord
from skipstone.sentence import NOTHING, Sentence

# Share of a block that is left masked by who goes beyond it; a block that is left early has fewer.
_UNTOUCHED = 0.75


def other_region(case: Case) -> Finding | None:
    """From one canvas the steps part by their blocks: B goes beyond one that is hardly begun."""
    first = case.divergence.first
    if first is None or first.kind != "stop":
        return None
    pairs = zip(case.record_a.steps, case.record_b.steps, strict=False)
    same = takewhile(lambda pair: np.array_equal(pair[0].ids_before, pair[1].ids_before), pairs)
    parted = next((b.forward for a, b in same if a.block != b.block), None)
    if parted is None:
        return None
    step_b = next(step for step in case.record_b.steps if step.forward == parted)
    later = (step for step in case.record_b.steps if step.forward >= parted)
    found = next((seen for step in later if (seen := _beyond(case, step)) is not None), None)
    if found is None:
        return None
    block, behind = found
    start, stop = block
    return Finding(
        rule="region-boundaries",
        number=16,
        what=Sentence("B commits behind a block of A's that is hardly begun"),
        where=place(step_b, None, next(iter(step_b.committed), behind)),
        evidence=Sentence(
            "A decodes positions {start} to {last} as a block, B commits position {position} and "
            "leaves most of these masked",
            start=start,
            last=stop - 1,
            position=behind,
        ),
        experiment=NOTHING,
        proof=Proof.CONSISTENT,
        remedy=Sentence("begin the blocks of each prompt where its own prompt ends"),
        positions=(behind,),
    )


def _beyond(case: Case, step: StepRecord) -> tuple[tuple[int, int], int] | None:
    """A block of A's, and a position behind it that a step commits while the block is masked."""
    masked = step.ids_after == case.record_b.header.mask_id
    for start, stop in sorted({(a.block_start, a.block_stop) for a in case.record_a.steps}):
        first = max(0, start - step.prompt_length)
        within = masked[first : stop - step.prompt_length]
        behind = [position for position in step.committed if position >= stop]
        if behind and within.size and within.mean() >= _UNTOUCHED:
            return (start, stop), min(behind)
    return None
