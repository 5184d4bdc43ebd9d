"""16: the regions of prompt, block or window are cut at the wrong place."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.factors import swap
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.loop import SCHEDULES, RuleDifference
from skipstone.diagnosis.rule import (
    Answer,
    Rule,
    of_the_loop,
    place,
    proof_of,
    proof_of_patch,
    tried,
)
from skipstone.diagnosis.rules.budget_exhausted import masks_left
from skipstone.diagnosis.rules.inactive_feature import never_cached
from skipstone.policies import CACHE
from skipstone.record import StepRecord
from skipstone.sentence import NOTHING, Sentence

# What follows from the number of blocks.
_NUMBERS = frozenset(("number", "value", "of canvas"))

_BY_PLACE = Sentence(
    "derive the rows from prompt length and block length once, and use absolute positions"
)
_BY_VALUE = Sentence("see by what the cache policy chooses rows, and from which step it takes that")


def examine(case: Case) -> Answer:
    """Compare the rows of a step, and the bounds of its block, with the arithmetic of settings."""
    found = _rows(case) or _blocks(case) or _by_setting(case) or _never_visited(case)
    return found or of_the_loop(case, RULE.name, RULE.number)


_SETTINGS = ("block_length", "gen_length", "absolute_blocks", "growing_canvas", "suffix_window")


def _rows(case: Case) -> Finding | None:
    deviation = case.expected.first_of("rows")
    if deviation is None or deviation.expected is None:
        return None
    step, expected = deviation.step, deviation.expected
    missing, extra = np.setdiff1d(expected.rows, step.rows), np.setdiff1d(step.rows, expected.rows)
    if (expected.refresh and not extra.size) or never_cached(case.record_b):
        return None
    cache = CACHE.recorded(case.record_b.header.settings)
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
            Sentence("run on B's canvases with the right rows: the decisions are A's"),
            Sentence("run on B's canvases with the right rows: the decisions are not A's"),
        ),
        proof=proof_of_patch(case, case.proof.rows_reproduce),
        remedy=_BY_PLACE if cache is None or cache.pure else _BY_VALUE,
        positions=tuple(deviation.positions.tolist()),
    )


def _blocks(case: Case) -> Finding | None:
    """Blocks that are not where prompt length and block length put them."""
    settings, prompt = case.record_b.header.settings, case.record_b.prompt_length
    text = settings.get("block_length", "")
    if case.foreign or not text.isdigit():
        return None
    length = int(text)
    absolute = settings.get("absolute_blocks") == "true"
    first = prompt // length * length if absolute else prompt
    for step in case.record_b.steps:
        right = max(prompt, first + step.block * length)
        stop = min(first + (step.block + 1) * length, case.record_b.length)
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
    if found is None or found.factors[0].name not in _SETTINGS:
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


def _never_visited(case: Case) -> Finding | None:
    """Foreign code that fills all masks of its blocks, and has no block for the last positions.

    How many a step commits follows from how many blocks there are.
    """
    record, first = case.record_b, case.divergence.first
    left, loops = masks_left(record), case.loops.difference
    if not case.foreign or first is None or not left or masks_left(case.record_a):
        return None
    if record.outcome is None:
        # It was stopped from outside; what it would have visited is not known.
        return None
    end = max(step.block_stop for step in record.steps)
    if left != tuple(range(end, record.length)):
        return None
    # A loop that ends at an EOS goes to no further block either, but shares out steps as before.
    ended = record.header.eos_id in record.tokens
    if loops is None:
        known = first.kind == "stop" and not ended
    else:
        known = set(loops.parts) <= _NUMBERS and (not ended or _shared_among_fewer(case, loops))
    if not known:
        return None
    last = record.steps[-1]
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the last positions lie in no block"),
        where=place(last, None, end),
        evidence=Sentence(
            "B fills every mask of its {blocks} blocks, ends at position {last}, and never goes to "
            "the {left} masks behind it; A fills them",
            blocks=last.block + 1,
            last=end - 1,
            left=len(left),
        ),
        experiment=NOTHING,
        proof=proof_of(removed=None, added=None),
        remedy=Sentence("round the number of blocks up where they do not divide the answer"),
        positions=left,
    )


def _shared_among_fewer(case: Case, loops: RuleDifference) -> bool:
    """Whether each block of B has the steps that as many in all, among fewer blocks, give it."""
    if loops.fit_b is None or loops.parts != ("value",):
        return False
    totals = list[tuple[float, float]]()
    pairs = ((case.record_a, loops.fit_a), (case.record_b, loops.fit_b))
    for record, fit in pairs:
        blocks, steps = len({s.block for s in record.steps}), fit.rule.selection.value.low
        if fit.rule.selection.number not in SCHEDULES:
            return False
        # The share of a block was rounded, up or down.
        totals.append((blocks * (steps - 1) + 1, blocks * (steps + 1) - 1))
    return max(low for low, _ in totals) <= min(high for _, high in totals)


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
