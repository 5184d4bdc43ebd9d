"""Classifier-free guidance: which scale of it explains the tokens of a run?

Scores are u + g (c - u), of the logits c of the canvas, and u of the same one with its prompt
hidden.
That one token is the best is linear in g, so that each token that was written leaves an interval.

Shape letters: C masks, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, isnan

import numpy as np

from skipstone.diagnosis.loop.evidence import Evidence
from skipstone.diagnosis.loop.rule import Draw, ValueRange

# Tokens that are as good as each other may come out either way.
_SLACK = 1e-4
_GRID = tuple(quarter / 4 for quarter in range(-24, 41))
# So many values are tried beside those that are stated.
_TRIED = 4


def guided_draws(evidence: Evidence, plain: Sequence[Draw], scale: float) -> list[Draw]:
    """The draws with guidance that explain every token, what is stated first.

    Args:
        evidence: with logits of both halves.
        plain: draws without guidance.
        scale: as stated, which weighs what differs by one more; NaN if it is not.
    """
    found = list[Draw]()
    for draw in plain:
        weights = _weights(_interval(evidence, draw), scale)
        fits = [replace(draw, guidance=weight) for weight in weights]
        found += [d for d in fits if evidence.drawn(d).all()]
    return found


def weighed_apart(a: Evidence, draw_a: Draw, b: Evidence, draw_b: Draw) -> bool:
    """Whether no one scale of guidance explains the tokens of both runs."""
    return _interval(a, draw_a).meet(_interval(b, draw_b)).empty


def _weights(within: ValueRange, scale: float) -> list[float]:
    """What a loop may have weighed with: the stated scale and its slips, then round numbers."""
    wide = ValueRange(within.low - 1e-6, within.high + 1e-6)
    if wide.empty:
        return []
    stated = () if isnan(scale) else (scale + 1, scale, -scale, 1 - scale, 1 + scale / 2)
    slips = [weight for weight in (*stated, 0.0) if weight in wide]
    middle = within.middle if within.high < inf else within.low + 1
    round_ones = sorted((w for w in _GRID if w in wide), key=lambda w: abs(w - middle))
    return list(dict.fromkeys([*slips, *round_ones[:_TRIED], middle]))


def _interval(evidence: Evidence, draw: Draw) -> ValueRange:
    """The weights by which every token that was written is the best."""
    low, high = -inf, inf
    for number in range(len(evidence.decisions)):
        for c_V, u_V, token in evidence.halves(number, draw):
            apart_V = c_V - u_V
            # The token wins over another if ahead + weight * gains >= 0.
            ahead_V, gains_V = u_V[token] - u_V + _SLACK, apart_V[token] - apart_V
            ahead_V[list(draw.without)] = inf
            with np.errstate(divide="ignore", invalid="ignore"):
                bound_V = -ahead_V / gains_V
            low = max(low, float(bound_V[gains_V > 0].max(initial=-inf)))
            high = min(high, float(bound_V[gains_V < 0].min(initial=inf)))
    return ValueRange(low, high)
