"""Tokens that are not the best of their row, and yet not drawn: other logits decided them.

Those of the step before; those of some ids alone; or those from which a penalty was taken, where
an id stands on the canvas already. What any of these does not explain in full is not kept.

Shape letters: S ids that stand on the canvas, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from skipstone.diagnosis.loop.evidence import Evidence
from skipstone.diagnosis.loop.rule import Draw

_PENALTIES = (1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0)
# So many values of a free number are tried.
_TRIED = 3
# An id has to win so often, where no better one may be taken, before it is no luck.
_OFTEN = 3


def other_logits(evidence: Evidence, draw: Draw) -> list[Draw]:
    """Draws by other logits that explain every token, the plainest first.

    Args:
        evidence: the decisions of the run, with logits.
        draw: the plain one that explains most of them.
    """
    mask_id = evidence.watched[0]
    bases = dict.fromkeys((draw, *draw.about_the_mask(mask_id)))
    found = [
        other
        for base in bases
        for other in (*_late(base), *_some_ids(evidence, base), *_penalised(evidence, base))
        if evidence.drawn(other).all()
    ]
    # Of one kind the first base that explains all is enough.
    kinds = dict[tuple[bool, bool, bool, float], Draw]()
    for other in found:
        kind = (other.late, other.within_block, other.ids is not None, other.penalty)
        kinds.setdefault(kind, other)
    return list(kinds.values())


def _late(draw: Draw) -> list[Draw]:
    """Decided by the logits of the step before, in the same block or at all."""
    if draw.offset:
        return []
    return [replace(draw, late=True, within_block=True), replace(draw, late=True)]


def _some_ids(evidence: Evidence, draw: Draw) -> list[Draw]:
    """Only ids below, or only ids from some id on: better ones than all of these always lose."""
    size = evidence.record.header.vocab_size
    written, passed, times = set[int](), set[int](), 0
    for number in range(len(evidence.decisions)):
        for x_V, token in evidence.logits_of(number, draw):
            x_V[list(draw.without)] = -np.inf
            better = np.flatnonzero(x_V > x_V[token])
            written.add(token)
            passed.update(better.tolist())
            times += bool(better.size)
    if times < _OFTEN:
        return []
    found = list[Draw]()
    if min(passed) > max(written):
        ends = _round_ones(max(written) + 1, min(passed))
        found += [replace(draw, ids=(0, end)) for end in ends]
    if max(passed) < min(written):
        starts = _round_ones(max(passed) + 1, min(written))
        found += [replace(draw, ids=(start, size)) for start in starts]
    return found


def _round_ones(low: int, high: int) -> list[int]:
    """Ids of a range, the rounder ones first: a limit is no odd number."""
    for step in (1000, 128, 100, 64, 50, 10, 1):
        inside = list(range(-(-low // step) * step, high + 1, step))
        if inside:
            return list(dict.fromkeys((*inside[-_TRIED:], high)))
    return [high]


def _penalised(evidence: Evidence, draw: Draw) -> list[Draw]:
    """Ids that stand on the canvas lose to others: by how much less must they count?"""
    low, high, times = 1.0, float("inf"), 0
    for number, decision in enumerate(evidence.decisions):
        seen_S = evidence.seen(decision.step)
        for x_V, token in evidence.logits_of(number, draw):
            x_V[list(draw.without)] = -np.inf
            old = np.zeros(x_V.size, bool)
            old[seen_S] = True
            better = x_V > x_V[token]
            if (better & (old == old[token])).any() or (better & ~old).any():
                return []
            times += bool(better.any())
            if not old[token]:
                low = max(low, _least(x_V[old], float(x_V[token])))
            else:
                high = min(high, _most(float(x_V[token]), x_V[~old]))
    if times < _OFTEN or not 1.0 < low <= high:
        return []
    middle = (low + high) / 2 if high < float("inf") else low * 1.1
    values = [v for v in _PENALTIES if low <= v <= high]
    nearest = sorted(values, key=lambda v: abs(v - low))[:_TRIED]
    return [replace(draw, penalty=value) for value in dict.fromkeys((*nearest, middle))]


def _least(old: np.ndarray, new: float) -> float:
    """The penalty from which on none of the old logits is better than a new one."""
    better = old[old > new]
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.where(better > 0, better / new if new > 0 else np.inf, new / better)
    return float(needed.max(initial=1.0))


def _most(old: float, new: np.ndarray) -> float:
    """The penalty up to which an old logit is still better than all the new ones."""
    best = float(new.max(initial=-np.inf))
    if old > 0:
        return old / best if best > 0 else float("inf")
    return best / old if old < 0 and best < 0 else 1.0
