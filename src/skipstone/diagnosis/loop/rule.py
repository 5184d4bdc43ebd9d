"""What a commit rule is made of: the token of a row, its confidence, the region, the number.

A rule is a value. The few parts are independent of each other, so that two rules can be compared
part by part, and so that one part can be put into the other rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, isfinite
from typing import Literal

import numpy as np

from skipstone.diagnosis.dtypes import rounded

ConfidenceKind = Literal[
    "probability",
    "margin",
    "entropy",
    "least probable",
    "left to right",
    "right to left",
    "any",
]
"""What decides the order; ``any`` is an order that no score explains, such as a random one."""

SoftmaxAxis = Literal["vocabulary", "rows", "block", "from the block on", "masks"]
"""Of a softmax: over the vocabulary, or over positions: those of all rows of the call, of the
block, of the block and all after it, or of the masks."""

ACROSS: tuple[SoftmaxAxis, ...] = ("rows", "block", "from the block on", "masks")
Reach = Literal["block", "to the end of the block", "from the block on", "canvas"]
Number = Literal[
    "each step",
    "remainder first",
    "remainder last",
    "share of the rest",
    "rounded share",
    "timesteps",
    "cosine",
    "at least",
    "above",
    "factor",
    "all",
    "some",
]
"""How many: so many each step; shares of a schedule; thresholds with >= and with >; a factor.
``some`` are numbers that none of these gives."""

Calls = Literal["all", "whole", "partial"]
"""Calls of the model: all, those over the whole canvas, or those over a part of it."""

SCHEDULES: tuple[Number, ...] = (
    "remainder first",
    "remainder last",
    "share of the rest",
    "rounded share",
    "timesteps",
    "cosine",
)
THRESHOLDS: tuple[Number, ...] = ("at least", "above")


@dataclass(frozen=True)
class Draw:
    """Which token a position proposes."""

    offset: int = 0
    """Position p is scored by row p + offset."""
    calls: Calls = "all"
    """In which calls; in the others it is scored by its own row."""
    within_block: bool = False
    """Whether that holds within the block alone: its first position keeps its own row."""
    without: tuple[int, ...] = ()
    """Ids that are never proposed."""
    still_summed: tuple[int, ...] = ()
    """Those of them that the softmax behind the confidence has nevertheless."""
    raised: int = -1
    """An id to whose logits ``by`` is added; -1 for none."""
    by: float = 0.0
    ids: tuple[int, int] | None = None
    """The first id that is proposed, and the first after the last one; None for all."""
    late: bool = False
    """Whether it decides by the logits of the step before: in the first step by its own."""
    penalty: float = 1.0
    """By which logits of ids that stand on the canvas are divided if positive, else multiplied."""
    guidance: float = 1.0
    """Weight of what the logits are apart from those with a hidden prompt; one is no guidance."""
    greedy: bool = True
    """The best token; else one that was drawn."""

    def about_the_mask(self, mask_id: int) -> tuple[Draw, Draw, Draw]:
        """The three ways that loops have with the mask's own logit.

        It is never proposed, and keeps its share of the softmax; it is left out of both; or it is
        like any other id, and a position that proposes it stays a mask.
        """
        never = replace(self, without=(mask_id,), still_summed=(mask_id,))
        return never, replace(never, still_summed=()), replace(self, without=(), still_summed=())


@dataclass(frozen=True)
class Confidence:
    """What decides the order of commits."""

    kind: ConfidenceKind = "probability"
    axis: SoftmaxAxis = "vocabulary"
    """Of the softmax."""
    dtype: str = "float64"
    last: tuple[int, ...] = ()
    """Positions that propose one of these ids come last."""


@dataclass(frozen=True)
class Region:
    """Which masks may be committed."""

    reach: Reach = "block"
    block_length: int | None = None
    """None: as the steps were cut when they were recorded."""


@dataclass(frozen=True)
class ValueRange:
    """The values that a free number may have: between two bounds, of which each may be one."""

    low: float
    high: float
    low_included: bool = True
    high_included: bool = True

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.low_included else value > self.low
        below = value <= self.high if self.high_included else value < self.high
        return above and below

    @property
    def empty(self) -> bool:
        """Whether there is no such value."""
        both = self.low_included and self.high_included
        return self.low > self.high or (self.low == self.high and not both)

    def meet(self, other: ValueRange) -> ValueRange:
        """The values that are in both."""
        low = max((self.low, not self.low_included), (other.low, not other.low_included))
        high = min((self.high, self.high_included), (other.high, other.high_included))
        return ValueRange(low[0], high[0], not low[1], high[1])

    def held(self, dtype: str) -> ValueRange:
        """The values as a dtype holds them."""
        if dtype == "float64":
            return self
        low, high = rounded(np.array([self.low, self.high]), dtype).tolist()
        return ValueRange(low, high)

    @property
    def middle(self) -> float:
        """A value in it."""
        if self.low == self.high or self.high == float("inf"):
            return self.low
        return (self.low + self.high) / 2

    @property
    def round(self) -> bool:
        """Whether it holds a number that somebody would choose: in twentieths, or 0.99, 0.999."""
        steps = (self.low * 20, self.high * 20)
        if not all(map(isfinite, steps)) or steps[1] - steps[0] >= 1:
            return True
        first = ceil(steps[0])
        chosen = (first / 20, (first + 1) / 20, 0.99, 0.999, 0.9999)
        return self.low == self.high or any(value in self for value in chosen)


ANYTHING = ValueRange(0.0, float("inf"))
PROBABILITY = ValueRange(0.0, 1.0)


@dataclass(frozen=True)
class Selection:
    """How many of the best are committed, or how good they must be."""

    number: Number
    value: ValueRange = ANYTHING
    """Of the free number: tokens a step, steps a block, the threshold, the factor."""
    forced: bool = True
    """Whether the best is committed although it misses the threshold."""
    of_canvas: bool = False
    """Whether a schedule shares out the masks of the whole canvas, not those of the block."""
    opening: bool = False
    """Whether the first step of a block commits the first position, whatever its confidence."""


@dataclass(frozen=True)
class LoopRule:
    """A whole commit rule."""

    draw: Draw
    confidence: Confidence
    region: Region
    selection: Selection

    @property
    def predicts(self) -> bool:
        """Whether it says which commits there will be: what is drawn at random it does not."""
        known = self.confidence.kind != "any" and self.selection.number != "some"
        return self.draw.greedy and known

    @property
    def form(self) -> LoopRule:
        """The rule without the value of its free number."""
        return replace(self, selection=replace(self.selection, value=ANYTHING))


def cost(rule: LoopRule) -> float:
    """How far a rule is from the plain one; of rules that explain as much, the cheapest counts."""
    return (
        _cost_of_draw(rule.draw)
        + _cost_of_confidence(rule.confidence)
        + _REACH[rule.region.reach]
        + (2.0 if rule.region.block_length is not None else 0.0)
        + _NUMBER[rule.selection.number]
        + (0.0 if rule.selection.forced else 0.5)
        + 2.0 * rule.selection.of_canvas
        + (3.0 if rule.selection.opening else 0.0)
    )


def _cost_of_draw(draw: Draw) -> float:
    raised = 0.0 if draw.raised < 0 else 4.0
    return (
        abs(draw.offset)
        + 0.5 * (draw.calls != "all")
        + 0.5 * draw.within_block
        + 0.5 * len(draw.without)
        + 0.2 * len(draw.still_summed)
        + raised
        + 0.9 * (draw.ids is not None)
        + 3.0 * draw.late
        + 3.0 * (draw.penalty != 1.0)
        + 0.3 * (draw.guidance != 1.0)
        + (0.0 if draw.greedy else 6.0)
    )


def _cost_of_confidence(confidence: Confidence) -> float:
    axis = 0.0 if confidence.axis == "vocabulary" else 2.0
    return _KIND[confidence.kind] + axis + _DTYPE[confidence.dtype] + 2.0 * len(confidence.last)


_KIND: dict[ConfidenceKind, float] = {
    "probability": 0.0,
    "margin": 1.5,
    "entropy": 1.5,
    "least probable": 1.5,
    "left to right": 1.0,
    "right to left": 2.0,
    "any": 20.0,
}
_DTYPE = {"float64": 0.0, "float32": 0.4, "float16": 1.2, "bfloat16": 1.0}
_REACH: dict[Reach, float] = {
    "block": 0.0,
    "to the end of the block": 0.2,
    "from the block on": 1.0,
    "canvas": 0.8,
}
_NUMBER: dict[Number, float] = {
    "each step": 0.0,
    "remainder first": 0.3,
    "remainder last": 0.6,
    "share of the rest": 0.5,
    "rounded share": 0.7,
    "timesteps": 0.8,
    "cosine": 1.0,
    "at least": 0.1,
    "above": 0.4,
    "factor": 0.9,
    "all": 0.5,
    "some": 12.0,
}
