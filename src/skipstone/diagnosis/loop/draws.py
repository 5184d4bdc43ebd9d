"""Which tokens does a run take? The draws that explain them, the plainest first."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from skipstone.diagnosis.loop.evidence import Evidence
from skipstone.diagnosis.loop.guidance import guided_draws
from skipstone.diagnosis.loop.otherwise import other_logits
from skipstone.diagnosis.loop.rule import Calls, Draw

# How far the row of a position is, in which calls, and whether the first one of a block may keep
# its own: tokens need not tell these two apart.
_OFFSETS: tuple[tuple[int, Calls, tuple[bool, ...]], ...] = (
    (0, "all", (False,)),
    (-1, "all", (False, True)),
    (1, "all", (False, True)),
    (-1, "whole", (False,)),
    (-1, "partial", (False,)),
    (1, "whole", (False,)),
    (1, "partial", (False,)),
    (-2, "all", (False,)),
)
# More ids than these are not left out by a rule; they lose by chance.
_MOST_LEFT_OUT = 4
# An id that is nothing special has to lose as often as this.
_OFTEN = 3
# Rows that are shifted and drawn from have to make the tokens so much likelier (natural logarithm).
_UNLIKELY = 5.0
_RAISES = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0, 20.0, 50.0, 100.0)


def likely_draws(evidence: Evidence, scale: float) -> tuple[Evidence, list[Draw]]:
    """Draws that explain the tokens, or else those that explain most.

    Args:
        evidence: the decisions of the run.
        scale: of the guidance, as stated; NaN if it is not.

    Returns:
        The evidence with every id watched that a draw leaves out or raises; and the draws.
    """
    offsets = _OFFSETS if evidence.logits else _OFFSETS[:1]
    tried = list[Draw]()
    for offset, calls, ways in offsets:
        plain = [
            draw
            for within in ways
            for draw in _about_the_mask(evidence, Draw(offset, calls, within))
        ]
        full = [d for d in plain if evidence.drawn(d).all()]
        if evidence.guided:
            full = [*guided_draws(evidence, plain, scale), *full]
        if full:
            return evidence, list(dict.fromkeys(full))
        tried += plain
    shares = {draw: int(evidence.drawn(draw).sum()) for draw in tried}
    best = max(tried, key=lambda d: shares[d])
    evidence, bent = _bent_from(evidence, tried, best) if evidence.logits else (evidence, [])
    if evidence.logits and not any(len(d.without) <= len(best.without) + 1 for d in bent):
        # Several ids that always lose may as well be all of a range.
        bent = other_logits(evidence, best) or bent
    drawn = max(
        # A confidence may count the mask though no draw does.
        (replace(d, greedy=False) for d in tried if not d.still_summed),
        key=lambda d: _likelihood(evidence, d) - _UNLIKELY * abs(d.offset),
    )
    counted = [replace(drawn, still_summed=drawn.without)] if drawn.without else []
    return evidence, [*bent, best, *counted, drawn]


def _about_the_mask(evidence: Evidence, draw: Draw) -> tuple[Draw, ...]:
    """The ways with the mask's own logit that a run may tell apart."""
    if not evidence.logits:
        return (draw,)
    never, left_out, like_others = draw.about_the_mask(evidence.watched[0])
    every = range(len(evidence.decisions))
    if any(
        (evidence.proposals(i, like_others).token_C == evidence.watched[0]).any() for i in every
    ):
        return never, left_out, like_others
    # Where it is never the best, that it cannot be proposed says nothing.
    return left_out, like_others


def _likelihood(evidence: Evidence, draw: Draw) -> float:
    """Logarithm of the chance that the tokens of a run were drawn so; of what has scores."""
    total = 0.0
    for i, decision in enumerate(evidence.decisions):
        proposals = evidence.proposals(i, draw)
        value_C = proposals.log_p_C[decision.committed]
        total += float(value_C[np.isfinite(value_C)].sum())
    return total


def bent_draws(evidence: Evidence, draw: Draw) -> list[Draw]:
    """Draws that leave out or raise one of the watched ids, and explain the same tokens."""
    found = list[Draw]()
    for token in evidence.watched[1:] if evidence.logits else ():
        if token in draw.without:
            continue
        less = replace(draw, without=(*draw.without, token))
        found += [less, replace(less, still_summed=(*draw.still_summed, token))]
        found += [replace(draw, raised=token, by=by) for by in _RAISES]
    return [d for d in found if evidence.drawn(d).all()]


def _bent_from(evidence: Evidence, tried: list[Draw], best: Draw) -> tuple[Evidence, list[Draw]]:
    """The same from the best draw; where its rows are shifted, from the positions' own first.

    Where an id that wins everywhere is left out, rows that are shifted may well explain more.
    """
    own = [draw for draw in tried if best.offset and not draw.offset]
    bases = sorted(dict.fromkeys((best, *own)), key=lambda draw: abs(draw.offset))
    found = list[Draw]()
    for base in bases:
        evidence, bent = _bent(evidence, base)
        found += bent
    return evidence, list(dict.fromkeys(found))


def _bent(evidence: Evidence, draw: Draw) -> tuple[Evidence, list[Draw]]:
    """Draws that leave ids out, or raise one, and by that explain what a plain one does not."""
    taken, outranked_by = Counter[int](), Counter[int]()
    for i, decision in enumerate(evidence.decisions):
        sheet, proposals = evidence.sheet(i, draw), evidence.proposals(i, draw)
        done = decision.committed
        odd = np.flatnonzero(done & (proposals.token_C != decision.written_C))
        taken.update(decision.written_C[odd].tolist())
        for c in odd.tolist():
            outranked_by.update(set(sheet.above_ids[c]) - set(draw.without))
    found = list[Draw]()
    out = _never_written(evidence, outranked_by)
    if out:
        evidence = evidence.watch(out)
        less = replace(draw, without=tuple(dict.fromkeys((*draw.without, *out))))
        # A loop may leave an id out of the softmax, and the mask only of what is proposed.
        summed = dict.fromkeys((less.still_summed, less.without, draw.without))
        found += [replace(less, still_summed=ids) for ids in summed]
    if len(taken) == 1:
        token = next(iter(taken))
        evidence = evidence.watch((token,))
        found += _raised(evidence, draw, token)
    found = [d for d in found if evidence.drawn(d).all()]
    return evidence, found


def _never_written(evidence: Evidence, outranked_by: Counter[int]) -> tuple[int, ...]:
    """Ids that lost although they were best, and were never written."""
    written = {
        int(token)
        for decision in evidence.decisions
        for token in decision.written_C[decision.committed]
    }
    ids = [
        token
        for token, times in outranked_by.most_common()
        if token not in written and (times >= _OFTEN or token in evidence.watched)
    ]
    return tuple(ids) if len(ids) <= _MOST_LEFT_OUT else ()


def _raised(evidence: Evidence, draw: Draw, token: int) -> list[Draw]:
    """An id that wins although it is not best: by how much must it have been raised?"""
    low, high = 0.0, float("inf")
    for i, decision in enumerate(evidence.decisions):
        sheet, proposals = evidence.sheet(i, draw), evidence.proposals(i, draw)
        at = 2 + sheet.watched.index(token)
        for c in np.flatnonzero(decision.committed).tolist():
            gap = float(proposals.best_C[c] - sheet.logit_CK[c, at])
            if decision.written_C[c] == token:
                low = max(low, gap)
            else:
                high = min(high, gap)
    if not low < high:
        return []
    middle = (low + high) / 2 if high < float("inf") else 2 * low
    values = [v for v in (*_RAISES, middle) if low < v < high]
    return [replace(draw, raised=token, by=value) for value in values]
