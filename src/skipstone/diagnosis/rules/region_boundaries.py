"""16: the regions of prompt, block or window are cut at the wrong place."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.factors import swap
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import (
    Answer,
    Rule,
    of_the_loop,
    place,
    proof_of,
    proof_of_patch,
    tried,
)
from skipstone.diagnosis.rules.inactive_feature import never_cached
from skipstone.record import StepRecord
from skipstone.sentence import NOTHING, Sentence


def examine(case: Case) -> Answer:
    """Compare the rows of a step, and the bounds of its block, with the arithmetic of settings."""
    found = _rows(case) or _blocks(case) or _by_setting(case)
    return found or of_the_loop(case, RULE.name, RULE.number)


def _rows(case: Case) -> Finding | None:
    deviation = case.expected.first_of("rows")
    if deviation is None or deviation.expected is None:
        return None
    step, expected = deviation.step, deviation.expected
    missing, extra = np.setdiff1d(expected.rows, step.rows), np.setdiff1d(step.rows, expected.rows)
    if (expected.refresh and not extra.size) or never_cached(case.record_b):
        return None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("other rows are recomputed than the cache policy says"),
        where=place(step, 1, int(deviation.positions[0])),
        evidence=Sentence(
            "rows {mine} against {right}: {missing} are missing, {extra} too many",
            mine=_span(step.rows),
            right=_span(expected.rows),
            missing=missing.size,
            extra=extra.size,
        ),
        experiment=tried(
            case.proof.fault_removed,
            Sentence("led along B's canvases with the right rows: the decisions are A's"),
            Sentence("led along B's canvases with the right rows: the decisions are not A's"),
        ),
        proof=proof_of_patch(case, case.proof.rows_reproduce),
        remedy=Sentence(
            "derive the rows from prompt length and block length once, and use absolute positions"
        ),
        positions=tuple(deviation.positions.tolist()),
    )


def _blocks(case: Case) -> Finding | None:
    """Blocks that do not lie where prompt length and block length put them."""
    length = case.record_b.header.settings.get("block_length", "")
    if case.foreign or not length.isdigit():
        return None
    for step in case.record_b.steps:
        right = case.record_b.prompt_length + step.block * int(length)
        stop = min(right + int(length), case.record_b.length)
        if (step.block_start, step.block_stop) != (right, stop):
            return _shifted(step, right, stop)
    return None


def _shifted(step: StepRecord, start: int, stop: int) -> Finding:
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("a block does not lie where the settings put it"),
        where=place(step, None, min(step.block_start, start)),
        evidence=Sentence(
            "block {block} covers positions {first} to {last}, the settings say {right_first} to "
            "{right_last}",
            block=step.block,
            first=step.block_start,
            last=step.block_stop - 1,
            right_first=start,
            right_last=stop - 1,
        ),
        experiment=NOTHING,
        proof=proof_of(removed=None, added=None),
        remedy=Sentence("start the first block right after the prompt"),
        positions=tuple(range(min(step.block_start, start), max(step.block_stop, stop))),
    )


def _by_setting(case: Case) -> Finding | None:
    found = swap(case) if case.expected.conforms else None
    if found is None or found.factors[0].name not in ("block_length", "gen_length"):
        return None
    first, step = case.divergence.first, case.step_b(case.divergence.forward or 0)
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the canvas is cut into other regions"),
        where=place(step, None, None if first is None else first.position),
        evidence=found.said,
        experiment=found.outcome,
        proof=proof_of(removed=found.removed, added=found.added),
        remedy=Sentence("compare runs with equal regions"),
    )


def _span(rows: np.ndarray) -> Sentence:
    if not rows.size:
        return Sentence("none")
    whole = rows.max() - rows.min() + 1 == rows.size
    return Sentence(
        "{first} to {last}" if whole else "{first} to {last} ({count} of them)",
        first=int(rows.min()),
        last=int(rows.max()),
        count=rows.size,
    )


RULE = Rule(16, "region-boundaries", "region boundaries wrong", examine)
