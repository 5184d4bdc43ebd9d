"""16: the regions of prompt, block or window are cut at the wrong place."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.factors import swap
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of
from skipstone.diagnosis.rules.inactive_feature import never_cached
from skipstone.record import StepRecord


def examine(case: Case) -> Answer:
    """Compare the rows of a step, and the bounds of its block, with the arithmetic of settings."""
    return _rows(case) or _blocks(case) or _by_setting(case)


def _rows(case: Case) -> Finding | None:
    deviation = case.first_of("rows")
    if deviation is None or deviation.expected is None:
        return None
    step, expected = deviation.step, deviation.expected
    missing, extra = np.setdiff1d(expected.rows, step.rows), np.setdiff1d(step.rows, expected.rows)
    if (expected.refresh and not extra.size) or never_cached(case.record_b):
        return None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what="other rows are recomputed than the cache policy says",
        where=place(step, 1, int(deviation.positions[0])),
        evidence=f"rows {_span(step.rows)} against {_span(expected.rows)}: {missing.size} are "
        f"missing, {extra.size} too many",
        experiment=f"led along B's canvases with the right rows: the decisions are "
        f"{'' if case.fault_removed else 'not '}A's",
        proof=proof_of(removed=case.fault_removed, added=case.rows_reproduce),
        remedy="derive the rows from prompt length and block length once, and use absolute "
        "positions",
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
        what="a block does not lie where the settings put it",
        where=place(step, None, min(step.block_start, start)),
        evidence=f"block {step.block} covers positions {step.block_start} to {step.block_stop - 1},"
        f" the settings say {start} to {stop - 1}",
        experiment="",
        proof=proof_of(removed=None, added=None),
        remedy="start the first block right after the prompt",
        positions=tuple(range(min(step.block_start, start), max(step.block_stop, stop))),
    )


def _by_setting(case: Case) -> Finding | None:
    found = swap(case) if case.conforms else None
    if found is None or found.factors[0].name not in ("block_length", "gen_length"):
        return None
    first, step = case.comparison.first, case.step_b(case.parted_at or 0)
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what="the canvas is cut into other regions",
        where=place(step, None, None if first is None else first.position),
        evidence=str(found),
        experiment=f"{found.how}: {'A' if found.removed else 'not A'}'s decisions",
        proof=proof_of(removed=found.removed, added=found.added),
        remedy="compare runs with equal regions",
    )


def _span(rows: np.ndarray) -> str:
    if not rows.size:
        return "none"
    whole = rows.max() - rows.min() + 1 == rows.size
    return f"{rows.min()} to {rows.max()}" + ("" if whole else f" ({rows.size} of them)")


RULE = Rule(16, "region-boundaries", "region boundaries wrong", examine)
